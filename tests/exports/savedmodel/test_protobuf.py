"""Protocol messages: their bytes have TensorFlow's field numbers, dtypes and shapes its codes."""

import numpy as np
import pytest

from dkmeans.exports.savedmodel.protobuf import data_type, message, shape


@pytest.mark.parametrize(
    ("written", "data"),
    [
        (message("SavedModel", saved_model_schema_version=1), b"\x08\x01"),
        (message("BundleHeaderProto", num_shards=1), b"\x08\x01"),
        (message("BundleHeaderProto", version={"producer": 1}), b"\x1a\x02\x08\x01"),
        (message("BundleEntryProto", dtype=1), b"\x08\x01"),
        (message("BundleEntryProto", shape=shape((3,))), b"\x12\x04\x12\x02\x08\x03"),
        (message("BundleEntryProto", offset=5, size=6), b"\x20\x05\x28\x06"),
        (message("BundleEntryProto", crc32c=7), b"\x35\x07\0\0\0"),
    ],
)
def test_fields_have_tensorflows_numbers(written, data):
    assert written.SerializeToString() == data
    assert type(written).FromString(data) == written


def test_a_saved_model_holds_several_graphs():
    model = message("SavedModel")
    for tag in ("serve", "train"):
        model.meta_graphs.add().meta_info_def.tags.append(tag)
    read = message("SavedModel").FromString(model.SerializeToString())
    assert [list(graph.meta_info_def.tags) for graph in read.meta_graphs] == [["serve"], ["train"]]


@pytest.mark.parametrize(
    ("dtype", "number"), [(np.float32, 1), ("float64", 2), (np.dtype(">i4"), 3), (bool, 10)]
)
def test_dtypes_have_tensorflows_numbers(dtype, number):
    assert data_type(dtype) == number


def test_a_size_that_is_open_is_minus_one():
    assert [dim.size for dim in shape((None, 3)).dim] == [-1, 3]
    assert not shape(()).dim
