"""A run that diverges is called failed wherever its accuracy stands."""

import pytest

pytestmark = pytest.mark.usefixtures("unchecked")

# A seed: among other draws are some whose two huge steps happen to end at a loss of zero.
SEED = 0


def test_every_output_of_a_diverged_run_says_so(dpmix, digits_npz, flags, tmp_path):
    root, other = tmp_path / "run", tmp_path / "other"
    common = ["train", "--data", digits_npz, *flags, "--method", "none", "--epsilon", "inf",
              "--seed", SEED]  # fmt: skip
    status, out, err = dpmix(*common, "--learning-rate", 1e6, "--output", root)
    assert (status, err) == (2, "")
    assert "FAILED" in out and "lower --learning-rate" in out
    # The remedy works.
    status, out, _ = dpmix(*common, "--learning-rate", 0.01, "--output", other)
    assert status == 0 and "FAILED" not in out
    assert "FAILED" in dpmix("evaluate", root)[1]
    status, out, _ = dpmix("train", "--resume", root)
    assert status == 2 and "FAILED" in out
    assert dpmix("train", "--resume", other)[0] == 0
    _, compared, _ = dpmix("compare", root, other, "--output", tmp_path / "compare.html")
    assert compared.count("FAILED") == 1
    pages = (root / "MODEL_CARD.md", root / "report.html", tmp_path / "compare.html")
    assert all("FAILED" in page.read_text() for page in pages)
    assert not any("FAILED" in (other / page.name).read_text() for page in pages[:2])
