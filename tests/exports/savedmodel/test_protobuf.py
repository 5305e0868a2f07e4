"""Protocol messages: their bytes have TensorFlow's field numbers, dtypes and shapes its codes."""

import numpy as np
import pytest

from dkmeans.exports.savedmodel.protobuf import (
    bundle_entry,
    bundle_header,
    data_type,
    saved_model,
    shape,
)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (saved_model(saved_model_schema_version=1), b"\x08\x01"),
        (bundle_header(num_shards=1), b"\x08\x01"),
        (bundle_header(version={"producer": 1}), b"\x1a\x02\x08\x01"),
        (bundle_entry(dtype=1), b"\x08\x01"),
        (bundle_entry(shape=shape((3,))), b"\x12\x04\x12\x02\x08\x03"),
        (bundle_entry(offset=5, size=6), b"\x20\x05\x28\x06"),
        (bundle_entry(crc32c=7), b"\x35\x07\0\0\0"),
    ],
)
def test_fields_have_tensorflows_numbers(message, data):
    assert message.SerializeToString() == data
    assert type(message).FromString(data) == message


def test_a_saved_model_holds_several_graphs():
    model = saved_model()
    for tag in ("serve", "train"):
        model.meta_graphs.add().meta_info_def.tags.append(tag)
    read = saved_model().FromString(model.SerializeToString())
    assert [list(graph.meta_info_def.tags) for graph in read.meta_graphs] == [["serve"], ["train"]]


@pytest.mark.parametrize(
    ("dtype", "number"), [(np.float32, 1), ("float64", 2), (np.dtype(">i4"), 3), (bool, 10)]
)
def test_dtypes_have_tensorflows_numbers(dtype, number):
    assert data_type(dtype) == number


def test_a_size_that_is_open_is_minus_one():
    assert [dim.size for dim in shape((None, 3)).dim] == [-1, 3]
    assert not shape(()).dim
