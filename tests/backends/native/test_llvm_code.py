"""Written LLVM IR, called from small compiled functions and compared with NumPy."""

import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from dkmeans.backends.native import llvm_code


@njit
def low_zeros(number):
    return llvm_code.trailing_zeros(number)


@llvm_code.as_intrinsic
def lesser_and_greater(code, a, b, found, lanes):
    vector = ir.VectorType(a.element, lanes)
    values = code.load(a.first, vector), code.load(b.first, vector)
    code.store(code.minimum(*values), found.first)
    code.store(code.maximum(*values), code.at(found.first, lanes))


@njit
def choose(a, b, found, lanes):
    lesser_and_greater(a, b, found, lanes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bytes_of_vector", [8, 16, 32, 64, 128])
def test_the_lesser_and_the_greater_are_the_second_number_where_one_is_nan(bytes_of_vector, dtype):
    lanes = bytes_of_vector // np.dtype(dtype).itemsize
    pairs = [(1, 2), (2, 1), (np.nan, 3), (3, np.nan), (0.0, -0.0), (-0.0, 0.0), (np.inf, 1)]
    for some in range(0, 28, lanes):
        a, b = np.array([pairs[(some + i) % len(pairs)] for i in range(lanes)], dtype).T.copy()
        found = np.empty((2, lanes), dtype)
        choose(a, b, found.ravel(), (None,) * lanes)
        expected = np.array([np.where(a < b, a, b), np.where(a > b, a, b)])
        assert found.tobytes() == expected.tobytes()


def test_the_zeros_below_the_lowest_one_are_counted():
    assert [low_zeros(number) for number in (1, 2, 12, -(2**63))] == [0, 1, 2, 63]
