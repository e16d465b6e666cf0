"""What inspecting a pool finds, and contact sheets looked at pixel by pixel."""

import shutil

import numpy as np
import pytest
from PIL import Image

from dpmix.errors import DpmixError
from dpmix.pool.inspect import COLUMNS, TILE, inspect_pool, write_sheets
from dpmix.pool.load import open_pool
from pictures import noise_picture


def inspect(root):
    seen = []
    found = inspect_pool(open_pool(root), lambda *step: seen.append(step))
    total = sum(found.counts.values())
    assert seen == [(done + 1, total) for done in range(total)]
    return found


def test_counts_sizes_and_what_is_corrupt_or_of_one_colour(class_folder, truncate):
    root = class_folder("pool", {"ant": 4, "bee": 1})
    noise_picture("L", 5, 9, seed=77).save(root / "bee" / "z.png")
    truncate(root / "ant" / "1.png")
    noise_picture("I;16", 8, 8, seed=1).save(root / "bee" / "deep.png")
    Image.new("L", (8, 8), 255).save(root / "bee" / "white.jpg")
    found = inspect(root)
    assert found.counts == {"ant": 4, "bee": 4}
    assert found.sizes == {(8, 8): 5, (5, 9): 1}
    assert (found.repeated, found.conflicting) == ([], 0)
    assert set(found.corrupt) == {"ant/1.png", "bee/deep.png"}
    assert "more than 8 bits" in found.corrupt["bee/deep.png"]
    assert found.plain == ["bee/white.jpg"]


def test_repeats_are_found_by_their_pixels_whatever_the_file(class_folder):
    root = class_folder("pool", {"ant": 3, "bee": 2})
    shutil.copy(root / "ant" / "0.png", root / "ant" / "copy.png")
    Image.open(root / "ant" / "1.png").save(root / "bee" / "same.bmp")
    found = inspect(root)
    assert found.repeated == [["ant/0.png", "ant/copy.png"], ["ant/1.png", "bee/same.bmp"]]
    assert found.conflicting == 1


def coloured(root, name, count):
    """Images of one grey level each, 2, 4, 6, ..."""
    (root / name).mkdir(parents=True)
    for i in range(count):
        level = 2 * (i + 1)
        Image.new("RGB", (6, 6), (level,) * 3).save(root / name / f"{i:03}.png")


def tiles(path):
    sheet = np.asarray(Image.open(path))
    return sheet[4 + TILE // 2 :: TILE + 4, 4 + TILE // 2 :: TILE + 4, 0].ravel().tolist()


def sheets(tmp_path, leave_out=(), folder="sheets"):
    return write_sheets(open_pool(tmp_path / "pool"), tmp_path / folder, set(leave_out))


def test_a_sheet_shows_every_image_of_a_small_class_in_order(tmp_path, truncate):
    coloured(tmp_path / "pool", "ant", 11)
    coloured(tmp_path / "pool", "bee", 2)
    truncate(tmp_path / "pool" / "bee" / "000.png")
    paths = sheets(tmp_path, ["bee/000.png"])
    assert [path.name for path in paths] == ["sheet-000-ant.png", "sheet-001-bee.png"]
    assert tiles(paths[0])[:11] == [2 * (i + 1) for i in range(11)]
    assert Image.open(paths[0]).size == (COLUMNS * (TILE + 4) + 4, 2 * (TILE + 4) + 4)
    assert tiles(paths[1]) == [4]


def test_sheets_replace_sheets_and_nothing_else(tmp_path):
    coloured(tmp_path / "pool", "ant", 1)
    assert sheets(tmp_path) == sheets(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ant.png").write_bytes(b"mine")
    with pytest.raises(DpmixError, match="holds something other than contact sheets"):
        sheets(tmp_path, folder="mine")
    assert (tmp_path / "mine" / "ant.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("place", "said"),
    [("pool/../pool/ant", "lies in the pool"), ("file/sheets", "cannot make folder")],
)
def test_sheets_never_go_into_the_pool_or_where_no_folder_can_be(tmp_path, place, said):
    coloured(tmp_path / "pool", "ant", 1)
    (tmp_path / "file").touch()
    with pytest.raises(DpmixError, match=said):
        sheets(tmp_path, folder=place)
