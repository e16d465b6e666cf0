"""Pages in a real browser: nothing is asked for, nothing complains, nothing is wider than a phone.

Needs Chromium (Debian: apt-get install chromium) and playwright, which is in the test extra.
"""

import json
import shutil
from dataclasses import replace

import pytest

from dpmix.reports.audit_report import AuditReport
from dpmix.reports.compare import compare_page
from dpmix.reports.page import report_page
from example_facts import facts, not_private

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


def audited():
    audit = {
        "kind": "gradient", "refuted": False, "claimed": 2.0, "delta": 1e-4, "one_run": 0.5,
        "two_worlds": 0.75, "confidence": 0.95, "canaries": 1000, "runs": 1, "plan": {},
        "settings": {}, "written": "2026-01-02", "dpmix": "0.1.0",
        "invariants": [{"name": "clipped gradients", "holds": True, "found": "none above"}],
    }  # fmt: skip
    return replace(facts(), audit=AuditReport.model_validate_json(json.dumps(audit)))


PAGES = {
    "few classes": lambda: report_page(facts()),
    "many classes": lambda: report_page(facts(MANY, method="mix-diff")),
    "one long word": lambda: report_page(facts(("w" * 90, "b"))),
    "not private": lambda: report_page(not_private()),
    "seeded, not over": lambda: report_page(facts(seed=3, steps=20, done=5)),
    "audited": lambda: report_page(audited()),
    "compare": lambda: compare_page(
        ["one", "another-" + "x" * 60, "third"], [facts(), facts(MANY), not_private()],
        settings=[("steps", ["1", "2", "3"])], data=[("classes", ["a", "b" * 80, "c"])],
        together=(2.0, 1e-4), repeated=(9, 47.8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_self_contained_quiet_and_fits(browser, tmp_path, name, scheme):
    path = tmp_path / "page.html"
    path.write_text(PAGES[name](), encoding="utf-8")
    said, asked = [], []
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for width in (SCREEN, PHONE):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert said == [] and set(asked) == {path.as_uri()}
    red, green, blue = (
        int(part)
        for part in page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(
            ","
        )
    )
    assert (red + green + blue > 3 * 128) == (scheme == "light")
    context.close()
