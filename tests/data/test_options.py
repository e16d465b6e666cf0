import pytest

from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_size": 0}, "image size is 0"),
        ({"channels": 2}, "channels is 2"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_refuses_values_out_of_range(wrong, said):
    with pytest.raises(DpmixError, match=said):
        ReadOptions(**wrong)
