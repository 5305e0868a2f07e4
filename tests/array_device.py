"""Where arrays of the standard lie in tests: with NumPy's, or where nothing comes by itself."""

import array_api_compat.numpy
import array_api_strict
import numpy as np


class NumpyDevice:
    xp = array_api_compat.numpy

    def put(self, values):
        return values

    def get(self, array):
        return np.asarray(array)


class OtherDevice:
    """Its arrays refuse NumPy's functions, other devices' arrays, and all that is not standard."""

    xp = array_api_strict

    def __init__(self):
        self._there = array_api_strict.Device("device1")
        self._host = array_api_strict.Device("CPU_DEVICE")

    def put(self, values):
        return array_api_strict.asarray(values, device=self._there)

    def get(self, array):
        assert array.device == self._there
        return np.asarray(array.to_device(self._host))
