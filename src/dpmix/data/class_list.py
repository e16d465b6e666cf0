"""The class names of a data set, read from its metadata alone.

Guarantee: no image and no label is read, and no image file's name: the names are those of folders
or of an array of text, which count as public everywhere in this package.
"""

from dpmix.data.folder import class_folder_names
from dpmix.data.hugging_face import PREFIX
from dpmix.data.load import nothing_found
from dpmix.data.local_path import local_path
from dpmix.data.mnist import CLASS_NAMES
from dpmix.data.npz_archive import NpzArchive, is_npz
from dpmix.data.torchvision_sets import TORCHVISION_SETS
from dpmix.errors import DpmixError

_BUILT_IN = {"mnist5k": CLASS_NAMES}


def class_list(data: str) -> tuple[str, ...]:
    """The class names of what `load_splits` would read, in label order.

    Args:
        data: as in `load_splits`.

    Raises:
        DpmixError: nothing of that name, or an `.npz` file without class names.
    """
    if data in _BUILT_IN:
        return _BUILT_IN[data]
    if data in TORCHVISION_SETS or data.startswith(PREFIX):
        raise DpmixError(
            f"the class names of data set '{data}' are not read apart from its images; name the "
            "classes by hand"
        )
    path = local_path(data)
    if path.is_dir():
        return class_folder_names(path)
    if not (is_npz(path) and path.is_file()):
        raise nothing_found(data, path)
    with NpzArchive(path) as archive:
        names = archive.class_names()
    if not names:
        raise DpmixError(
            f"{path.name} has no class names, only labels, which are private; expected an array "
            "'class_names': name the classes by hand"
        )
    return names
