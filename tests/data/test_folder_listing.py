import os

import pytest
from PIL import Image

from dpmix.data.folder_listing import SUFFIXES, list_classes, list_images
from dpmix.data.image import FORMATS
from dpmix.errors import DpmixError


@pytest.fixture
def root(tmp_path):
    for name in ("b/2.PNG", "b/10.jpeg", "a/x.tif", "a/note.txt", "a/.hidden.png", ".git/x.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")
    (tmp_path / "root" / "labels.csv").write_text("beside the classes")
    return tmp_path / "root"


def listed(root):
    classes, _ = list_classes(root, root)
    return {name: [path.name for path in files] for name, files in classes.items()}


def below(root):
    return [path.relative_to(root).as_posix() for path in list_images(root)[0]]


def test_every_suffix_of_the_formats_that_are_opened_is_read():
    """But .pfm, whose pixels are floats; and .dib, a BMP by another name."""
    Image.init()
    known = {end for end, form in Image.registered_extensions().items() if form in FORMATS}
    assert known - {".pfm"} | {".dib"} == SUFFIXES


def test_files_that_are_no_images_are_returned(root):
    _, others = list_classes(root, root)
    assert [path.name for path in others] == ["note.txt"]
    assert [path.name for path in list_images(root)[1]] == ["note.txt", "labels.csv"]


def test_images_of_every_depth_in_the_order_of_their_names(root):
    assert below(root) == ["a/x.tif", "b/10.jpeg", "b/2.PNG"]


def test_sorted_visible_images_only(root):
    assert listed(root) == {"a": ["x.tif"], "b": ["10.jpeg", "2.PNG"]}
    assert list(listed(root)) == ["a", "b"]


def test_images_in_no_class_folder_are_told_of(root):
    (root / "z.png").write_bytes(b"-")
    with pytest.warns(UserWarning, match=r"1 image\(s\) in .* are left out, such as 'z.png'"):
        assert "z.png" not in str(listed(root))


def test_class_without_images(root):
    (root / "a" / "x.tif").unlink()
    with pytest.raises(DpmixError, match=r"a' holds no images"):
        listed(root)


def test_no_classes(tmp_path):
    with pytest.raises(DpmixError, match="holds no class folders"):
        listed(tmp_path)


def test_unreadable_folder(root):
    with pytest.raises(DpmixError, match="gone' cannot be read"):
        list_classes(root / "gone", root)


def test_folder_inside_a_class(root):
    (root / "a" / "deeper").mkdir()
    with pytest.raises(DpmixError, match="holds a folder, 'deeper'"):
        listed(root)


def test_splits_inside_a_class_are_told_from_a_folder_of_images(root):
    (root / "a" / "Test").mkdir()
    with pytest.raises(DpmixError, match="put the splits outside, as Test/a"):
        listed(root)


def test_links_inside_the_root_are_followed(root):
    (root / "a" / "y.png").symlink_to(root / "b" / "2.PNG")
    assert listed(root)["a"] == ["x.tif", "y.png"]


@pytest.mark.parametrize("place", ["a/link.png", "link"])
def test_links_out_of_the_root_are_refused(root, tmp_path, place):
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "1.png").write_bytes(b"-")
    target = outside / "1.png" if place.endswith("png") else outside
    (root / place).symlink_to(target)
    with pytest.raises(DpmixError, match=r"link.* is a symbolic link out of the data folder"):
        listed(root)


def test_a_sibling_whose_name_begins_alike_is_outside(root):
    sibling = root.with_name("root-other")
    sibling.mkdir()
    (root / "a" / "link.png").symlink_to(sibling)
    with pytest.raises(DpmixError, match="out of the data folder"):
        listed(root)


@pytest.mark.parametrize("target", ["nowhere", "loop.png"])
def test_broken_links_are_refused(root, target):
    (root / "a" / "loop.png").symlink_to(root / "a" / target)
    with pytest.raises(DpmixError, match=r"loop\.png' is a broken symbolic link"):
        listed(root)


@pytest.mark.parametrize("target", [".", "..", "../b"])
def test_links_that_lead_round_in_a_circle_are_refused(root, target):
    (root / "a" / "round").symlink_to(target)
    (root / "b" / "back").symlink_to("../a")
    with pytest.raises(DpmixError, match="is a symbolic link to a folder that holds it"):
        list_images(root)


def test_a_folder_linked_inside_the_root_is_read(root):
    (root / "a" / "linked").symlink_to("../b")
    assert "a/linked/2.PNG" in below(root)


@pytest.mark.parametrize("read", [listed, below])
def test_pipes_are_refused(root, read):
    os.mkfifo(root / "a" / "pipe")
    with pytest.raises(DpmixError, match="is no file but a pipe, a socket or a device"):
        read(root)


def test_a_class_of_other_files_alone_says_which(root):
    (root / "a" / "x.tif").rename(root / "a" / "x.dcm")
    with pytest.raises(DpmixError, match=r"no images but 2 other file\(s\), 1 .txt, 1 .dcm"):
        listed(root)
