"""The sizes that the kernels have too."""

import re

import pytest

from dkmeans.backends.cuda import kernel_device
from dkmeans.backends.cuda.kernel_source import kernel_source

SHARED = (
    "THREADS",
    "FEW_CENTERS",
    "FEW_COLUMNS",
    "FEW_ROWS",
    "FEW_TILE",
    "FEW_STAGES",
    "FEW_GAP",
    "COUNTED_ROWS",
    "KEPT_SLABS",
    "SLAB",
    "STAGE_COLUMNS",
    "STAGES",
)


@pytest.mark.parametrize("name", SHARED)
def test_a_size_has_one_value(name):
    (value,) = re.findall(rf"^#define {name} (\d+)$", kernel_source(), re.MULTILINE)
    assert getattr(kernel_device, name) == int(value)


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_the_least_power_of_two_is_found(number, power):
    assert kernel_device.power_of_two(number) == power
