"""TensorFlow's protocol messages that TensorBoard does not contain, and its dtypes and shapes.

`files`, `graph` and `variables` call this module. TensorBoard's package has copies of nearly all
messages of TensorFlow. The three others are defined here, with the field numbers and types of
TensorFlow's `saved_model.proto` and `tensor_bundle.proto`, without the fields that are not used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.proto import meta_graph_pb2, tensor_shape_pb2, types_pb2, versions_pb2

_FILE, _PACKAGE = "dkmeans/exports.proto", "dkmeans.exports"
_FIELD = descriptor_pb2.FieldDescriptorProto
# Fields of each message: name, number, type, and the class of a message field.
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


def message(name: str, **fields: Any) -> Any:
    """Return a message of one of the types in `_MESSAGES`.

    The byte order of a `BundleHeaderProto` is little-endian by default.
    """
    return _message_class(name)(**fields)


def data_type(dtype: Any) -> int:
    """Return TensorFlow's number of a NumPy dtype."""
    return int(types_pb2.DataType.Value(_TYPES[np.dtype(dtype).name]))


def shape(sizes: tuple[int | None, ...]) -> Any:
    """Return a shape message; None stands for any size."""
    dims = tensor_shape_pb2.TensorShapeProto.Dim
    return tensor_shape_pb2.TensorShapeProto(
        dim=[dims(size=-1 if size is None else size) for size in sizes]
    )


@cache
def _message_class(name: str) -> Any:
    # The pool belongs to the process: after a reload of this module the file is there already.
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    except KeyError:
        pool.Add(_file_descriptor())
        descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(descriptor)


def _file_descriptor() -> Any:
    """Return the description of the messages in `_MESSAGES`, as protoc would compile it."""
    used = {kind.DESCRIPTOR for fields in _MESSAGES.values() for *_, kind in fields if kind}
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=_PACKAGE, syntax="proto3")
    file.dependency.extend(sorted(each.file.name for each in used))
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, of_type, kind in fields:
            # The only repeated field is `meta_graphs`, the only plural name of a message field.
            label = _FIELD.LABEL_REPEATED if field.endswith("s") and kind else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, type=of_type, label=label)
            if kind:
                added.type_name = f".{kind.DESCRIPTOR.full_name}"
    return file
