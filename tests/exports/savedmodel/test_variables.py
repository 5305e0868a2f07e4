"""Variables in TensorFlow's format: TensorFlow loads them, and the bytes are as documented."""

import struct

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dkmeans.exports.savedmodel.protobuf import message
from dkmeans.exports.savedmodel.variables import _varint, bundle


def test_tensorflow_has_the_variables_of_the_checkpoint(models, in_tensorflow):
    for (metric, dtype), model in models.items():
        found = in_tensorflow[metric, dtype]
        assert_array_equal(found["clusters:0"], model.cluster_centers())
        assert found["clusters:0"].dtype == dtype
        assert found["global_step:0"] == 3


def test_values_are_little_endian_in_the_order_of_their_names():
    values = {"b": np.arange(6, dtype=">f4").reshape(2, 3).T, "a": np.int64(7)}
    data = bundle(values)["variables.data-00000-of-00001"]
    assert data == struct.pack("<q", 7) + values["b"].astype("<f4").tobytes("C")


def test_the_index_has_an_entry_for_each_variable_and_tensorflows_magic_number():
    index = bundle({"a": np.zeros((2, 3), np.float32), "b": np.int64(7)})["variables.index"]
    assert index.endswith(struct.pack("<Q", 0xDB4775248B80FB57))
    start = index.index(b"b") + 1
    entry = message("BundleEntryProto").FromString(
        index[start : start + index[index.index(b"b") - 1]]
    )
    assert (entry.dtype, entry.offset, entry.size) == (9, 24, 8)


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_numbers_take_seven_bits_a_byte(number, encoded):
    assert _varint(number) == encoded
