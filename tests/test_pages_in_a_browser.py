"""Pages in a real browser: nothing is asked for, nothing complains, nothing is wider than a phone.

Needs Chromium (Debian: apt-get install chromium) and playwright, which is in the test extra.
"""

import shutil

import pytest

from dpmix.reports.compare import compare
from dpmix.reports.page import compare_page, report_page
from example_facts import facts, not_private
from several_labels import groups, judged
from several_labels import several as several_labels

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MANY = [f"a class with a rather long name, number {place}" for place in range(400)]
PHONE, SCREEN = 390, 1200

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.usefixtures("unchecked"),
]


@pytest.fixture(scope="module")
def browser():
    reason = "no playwright here: pip install '.[test]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as driver:
        # As root, in a container, there is no sandbox to be had.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def several():
    runs = [facts(steps=20, done=5), facts(MANY), not_private(seed=3)]
    return compare_page(compare(["one", "another-" + "x" * 60, "third"], runs, ()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_self_contained_quiet_and_fit_a_phone(browser, tmp_path, scheme):
    pages = {
        "one": report_page(facts(("w" * 90, "b"))),
        "many": report_page(facts(MANY, method="mix-diff")),
        "several": several(),
        "labels": report_page(judged(*several_labels(), groups(120, "F" * 80, "M"))),
    }
    said, asked = [], []
    page = browser.new_context(color_scheme=scheme).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        for width in (SCREEN, PHONE):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(path.as_uri())
            page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert {url for url in asked if not url.startswith("data:image/")} == {path.as_uri()}
        asked.clear()
    assert said == []
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")
    assert (sum(map(int, colour)) > 3 * 128) == (scheme == "light")
