"""Public class prevalences: every class once, numbers above zero, and errors that name the row."""

import pytest

from dpmix.data.prevalence import read_prevalences
from dpmix.errors import DpmixError

NAMES = ("cat", "dog")


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prevalence.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("text", [
    "class,prevalence\ndog,0.1\ncat,0.9\n",
    "class,prevalence\r\ncat, 3494.1\r\n dog ,388.2333333333\r\n\r\n",
    "class , prevalence\ncat,90\ndog,10",
])  # fmt: skip
def test_numbers_of_any_scale_become_shares_in_the_order_of_the_classes(tmp_path, text):
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_prevalences(write(tmp_path, text, encoding), NAMES)
        assert found == pytest.approx((0.9, 0.1), abs=1e-4) and sum(found) == pytest.approx(1)


@pytest.mark.parametrize(("text", "message"), [
    ("", "do not start with 'class,prevalence'"),
    ("name,share\ncat,1\n", "do not start with 'class,prevalence'"),
    ("class,prevalence\ncat,1\n", "no row for class 'dog'; expected one for each of the 2"),
    ("class,prevalence\ncat,1\ncat,2\n", "row 3: class 'cat' is given twice"),
    ("class,prevalence\ncat,1\ndig,2\n", "row 3: .* no class 'dig': did you mean 'dog'"),
    ("class,prevalence\ncat,0\ndog,2\n", "row 2: the prevalence of class 'cat' is '0'"),
    ("class,prevalence\ncat,-1\ndog,2\n", "'-1'; expected a number above 0"),
    ("class,prevalence\ncat,nan\ndog,2\n", "'nan'; expected a number above 0"),
    ("class,prevalence\ncat,inf\ndog,2\n", "'inf'; expected a number above 0"),
    ("class,prevalence\ncat,1e300\ndog,2\n", "'1e300'; expected a number above 0, 1e-12 to 1e.12"),
    ("class,prevalence\ncat,many\ndog,2\n", "'many'; expected a number above 0"),
    ("class,prevalence\ncat,1,2\ndog,2\n", "row 2: 3 cells; expected 2"),
    ("class,prevalence\ncat\ndog,2\n", "row 2: 1 cells; expected 2"),
])  # fmt: skip
def test_a_wrong_file_is_refused_with_its_row(tmp_path, text, message):
    with pytest.raises(DpmixError, match=message):
        read_prevalences(write(tmp_path, text), NAMES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DpmixError, match=r"cannot read class prevalences '.*none\.csv'.*private"):
        read_prevalences(tmp_path / "none.csv", NAMES)
