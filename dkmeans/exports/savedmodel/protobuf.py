"""TensorFlow's protocol messages: those that TensorBoard comes with, and the three it lacks.

Numbers and types of their fields are those of TensorFlow's `saved_model.proto` and
`tensor_bundle.proto`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.proto import meta_graph_pb2, tensor_shape_pb2, types_pb2, versions_pb2

_FILE, _PACKAGE = "dkmeans/exports.proto", "dkmeans.exports"
_FIELD = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, Any, Any]]] = {
    "SavedModel": [
        ("saved_model_schema_version", 1, _FIELD.TYPE_INT64, None),
        ("meta_graphs", 2, _FIELD.TYPE_MESSAGE, meta_graph_pb2.MetaGraphDef),
    ],
    "BundleHeaderProto": [
        ("num_shards", 1, _FIELD.TYPE_INT32, None),
        ("version", 3, _FIELD.TYPE_MESSAGE, versions_pb2.VersionDef),
    ],
    "BundleEntryProto": [
        ("dtype", 1, _FIELD.TYPE_INT32, None),
        ("shape", 2, _FIELD.TYPE_MESSAGE, tensor_shape_pb2.TensorShapeProto),
        ("offset", 4, _FIELD.TYPE_INT64, None),
        ("size", 5, _FIELD.TYPE_INT64, None),
        ("crc32c", 6, _FIELD.TYPE_FIXED32, None),
    ],
}
_TYPES = {
    "float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE", "bool": "DT_BOOL",
    "int8": "DT_INT8", "int16": "DT_INT16", "int32": "DT_INT32", "int64": "DT_INT64",
    "uint8": "DT_UINT8", "uint16": "DT_UINT16", "uint32": "DT_UINT32", "uint64": "DT_UINT64",
}  # fmt: skip


def saved_model(**fields: Any) -> Any:
    """A `SavedModel`."""
    return _class("SavedModel")(**fields)


def bundle_header(**fields: Any) -> Any:
    """A `BundleHeaderProto`: of one shard unless said otherwise, and little-endian."""
    return _class("BundleHeaderProto")(**fields)


def bundle_entry(**fields: Any) -> Any:
    """A `BundleEntryProto`."""
    return _class("BundleEntryProto")(**fields)


def data_type(dtype: Any) -> int:
    """TensorFlow's number of a dtype of NumPy."""
    return int(types_pb2.DataType.Value(_TYPES[np.dtype(dtype).name]))


def shape(sizes: tuple[int | None, ...]) -> Any:
    """A shape; None is any size."""
    dims = tensor_shape_pb2.TensorShapeProto.Dim
    return tensor_shape_pb2.TensorShapeProto(
        dim=[dims(size=-1 if size is None else size) for size in sizes]
    )


@cache
def _class(name: str) -> Any:
    pool = descriptor_pool.Default()
    try:
        found = pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    except KeyError:
        pool.Add(_described())
        found = pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)


def _described() -> Any:
    used = {kind.DESCRIPTOR for fields in _MESSAGES.values() for *_, kind in fields if kind}
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=_PACKAGE, syntax="proto3")
    file.dependency.extend(sorted(each.file.name for each in used))
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, of_type, kind in fields:
            label = _FIELD.LABEL_REPEATED if field.endswith("s") and kind else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, type=of_type, label=label)
            if kind:
                added.type_name = f".{kind.DESCRIPTOR.full_name}"
    return file
