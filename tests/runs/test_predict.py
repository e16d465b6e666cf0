"""Which files are predicted on: those that training would read, in any depth, and those named."""

import pytest

from dpmix.data.folder import class_folders
from dpmix.runs.predict import image_files


def test_a_folder_of_classes_is_listed_as_for_training(class_folder, unchecked):
    root = class_folder("photos", {"b": 2, "a": 2})
    for place in ("a/._0.png", "__MACOSX/x.png", "b/Thumbs.db", "a/scan.heic", "b/2.jfif"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(b"-")
    with pytest.warns(
        UserWarning, match=r"1 file\(s\) are left out \(\.heic: 1\), such as .*scan\.heic"
    ):
        listed = image_files([root])
    with pytest.warns(UserWarning, match="left out"):
        _, part = class_folders(root)
    assert [path.relative_to(root).as_posix() for path in listed] == list(part.names)


def test_a_file_that_is_named_is_taken_whatever_its_suffix(class_folder):
    root = class_folder("photos", {"a": 1})
    (root / "a" / "0.png").rename(root / "a" / "scan")
    assert image_files([root / "a" / "scan"]) == [root / "a" / "scan"]
