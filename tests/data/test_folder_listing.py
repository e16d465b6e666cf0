import pytest

from dpmix.data.folder_listing import list_classes
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
    return {name: [path.name for path in files] for name, files in list_classes(root, root).items()}


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
