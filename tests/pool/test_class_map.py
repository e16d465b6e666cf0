"""Pool classes to private classes: by name, by file, or as the caller chose."""

from unicodedata import normalize

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.class_map import LEFT_OUT, UNLABELLED, class_map

NAMES = ("ant", "bee", "cow")


@pytest.fixture
def csv_file(tmp_path):
    def write(text):
        path = tmp_path / "map.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_maps_leaves_out_and_leaves_the_rest_to_their_names(csv_file):
    path = csv_file('\ufeffpool_class, class\n"moth, night",bee\n\nstone,\nbee, cow\n')
    pool = ("bee", "moth, night", "stone", "ant")
    assert class_map(pool, NAMES, labels_csv=path) == [2, 1, LEFT_OUT, 0]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_the_file_match_in_either_unicode_form(csv_file, form):
    path = csv_file(normalize(form, "pool_class,class\nmélèze,forêt\n"))
    assert class_map(("mélèze",), ("blé", "forêt"), labels_csv=path) == [1]


def test_what_matches_nothing_is_as_the_caller_chose():
    assert class_map(("ant", "dog"), NAMES, unmapped="leave-out") == [0, LEFT_OUT]
    assert class_map(("dog", "elk"), NAMES, unmapped="unlabelled") == [UNLABELLED] * 2
    for unmapped, expected in (
        ("leave-out", "no class of the public pool is used"),
        ("leave", r"pool_unmapped is 'leave': did you mean 'leave-out'\?"),
        ("refuse", r"'beee' \(and 1 more\) is not a class .* did you mean 'bee'\?.*--pool-labels"),
    ):
        with pytest.raises(DpmixError, match=expected):
            class_map(("beee", "dog"), NAMES, unmapped=unmapped)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "do not start with 'pool_class,class'"),
        ("class,pool_class\nant,ant\n", "do not start with 'pool_class,class'"),
        ("pool_class,class\nant\n", "row 2: 1 cells; expected 2"),
        ("pool_class,class\naunt,bee\n", "row 2: the pool has no class 'aunt': did you mean"),
        ("pool_class,class\nant,be\n", "row 2: the private data have no class 'be': did you mean"),
        ("pool_class,class\nant,bee\nant,cow\n", "row 3: class 'ant' is mapped twice"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_its_row(csv_file, text, said):
    with pytest.raises(DpmixError, match=said):
        class_map(("ant",), NAMES, labels_csv=csv_file(text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DpmixError, match="cannot read pool labels"):
        class_map(("ant",), NAMES, labels_csv=tmp_path / "gone.csv")
