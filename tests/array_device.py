"""Array devices for tests: NumPy's arrays, and arrays that nothing can read by accident."""

import array_api_compat.numpy
import array_api_strict
import numpy as np


class NumpyDevice:
    """NumPy's arrays on the host."""

    xp = array_api_compat.numpy

    def put(self, values):
        return values

    def get(self, array):
        return np.asarray(array)


class OtherDevice:
    """Arrays of a second device of array-api-strict.

    They refuse NumPy's functions, arrays of other devices, and everything outside the standard.
    """

    xp = array_api_strict

    def __init__(self):
        self._there = array_api_strict.Device("device1")
        self._host = array_api_strict.Device("CPU_DEVICE")

    def put(self, values):
        return array_api_strict.asarray(values, device=self._there)

    def get(self, array):
        assert array.device == self._there
        return np.asarray(array.to_device(self._host))
