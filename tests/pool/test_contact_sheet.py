"""Contact sheets, looked at pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from dpmix.errors import DpmixError
from dpmix.pool.inspect import COLUMNS, PER_SHEET, TILE, write_sheets
from dpmix.pool.load import open_pool


def coloured(root, name, count):
    """Images of one grey level each, 2, 4, 6, ..."""
    (root / name).mkdir(parents=True)
    for i in range(count):
        level = 2 * (i + 1)
        Image.new("RGB", (6, 6), (level,) * 3).save(root / name / f"{i:03}.png")


def tiles(path):
    sheet = np.asarray(Image.open(path))
    return sheet[4 + TILE // 2 :: TILE + 4, 4 + TILE // 2 :: TILE + 4, 0].ravel().tolist()


def test_a_sheet_shows_every_image_of_a_small_class_in_order(tmp_path):
    coloured(tmp_path / "pool", "ant", 11)
    coloured(tmp_path / "pool", "bee", 1)
    paths = list(write_sheets(open_pool(tmp_path / "pool"), tmp_path / "sheets", set()))
    assert [path.name for path in paths] == ["ant.png", "bee.png"]
    shown = tiles(paths[0])
    assert shown[:11] == [2 * (i + 1) for i in range(11)]
    assert Image.open(paths[0]).size == (COLUMNS * (TILE + 4) + 4, 2 * (TILE + 4) + 4)
    assert tiles(paths[1]) == [2]


def test_a_large_class_is_shown_evenly_with_its_first_and_last(tmp_path):
    coloured(tmp_path / "pool", "ant", 100)
    (path,) = write_sheets(open_pool(tmp_path / "pool"), tmp_path / "sheets", set())
    shown = tiles(path)
    assert len(shown) == PER_SHEET
    assert (shown[0], shown[-1]) == (2, 200)
    assert shown == sorted(shown) and len(set(shown)) == PER_SHEET


def test_images_that_cannot_be_read_are_left_out(tmp_path, truncate):
    coloured(tmp_path / "pool", "ant", 3)
    truncate(tmp_path / "pool" / "ant" / "001.png")
    sheets = write_sheets(open_pool(tmp_path / "pool"), tmp_path / "sheets", {"ant/001.png"})
    assert tiles(next(sheets)) == [2, 6]


def test_a_class_name_becomes_a_file_name(tmp_path):
    coloured(tmp_path / "pool", 'a "b": c?', 1)
    (path,) = write_sheets(open_pool(tmp_path / "pool"), tmp_path / "sheets", set())
    assert path.name == "a _b__ c_.png"


def test_names_that_would_collide_are_numbered(tmp_path):
    for name in ("a:b", "a?b", "A_b", "x" * 90 + "1", "x" * 90 + "2"):
        coloured(tmp_path / "pool", name, 1)
    paths = list(write_sheets(open_pool(tmp_path / "pool"), tmp_path / "sheets", set()))
    assert len({path.name.lower() for path in paths}) == 5
    assert all(path.exists() for path in paths)


def test_sheets_replace_sheets_and_nothing_else(tmp_path):
    coloured(tmp_path / "pool", "ant", 1)
    pool = open_pool(tmp_path / "pool")
    for _ in range(2):
        list(write_sheets(pool, tmp_path / "sheets", set()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ant.png").write_bytes(b"mine")
    with pytest.raises(DpmixError, match="holds something else than contact sheets"):
        list(write_sheets(pool, tmp_path / "mine", set()))
    assert (tmp_path / "mine" / "ant.png").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["pool", "pool/sheets", "pool/../pool/ant"])
def test_sheets_never_go_into_the_pool(tmp_path, place):
    coloured(tmp_path / "pool", "ant", 1)
    with pytest.raises(DpmixError, match="lies in the pool"):
        list(write_sheets(open_pool(tmp_path / "pool"), tmp_path / place, set()))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    coloured(tmp_path / "pool", "ant", 1)
    (tmp_path / "file").touch()
    with pytest.raises(DpmixError, match="cannot make folder"):
        list(write_sheets(open_pool(tmp_path / "pool"), tmp_path / "file" / "sheets", set()))
