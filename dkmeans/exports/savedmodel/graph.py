"""The graph of a model, of TensorFlow's first kind: what every version loads, and servers run.

All is computed in float64, of rows and centers around the centers' mean: an offset that they share
costs no precision. What is lost is some 1e-15 of the squared distance to that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorboard.compat.proto import graph_pb2, types_pb2, variable_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from dkmeans.distance import SMALLEST_SQUARED_NORM, Distance
from dkmeans.exports.receivers import Input
from dkmeans.exports.savedmodel.protobuf import data_type, shape

# The version of graphs that TensorFlow 2.12 writes; what is used here is far older.
_PRODUCER = 1395
_WIDE = np.float64


class Shape(tuple[int | None, ...]):
    """The value of an attribute that is a shape."""


class Graph:
    """A graph that nodes are added to; each is known by its name."""

    def __init__(self) -> None:
        self.definition = graph_pb2.GraphDef()
        self.definition.versions.producer = _PRODUCER

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its first result.

        Args:
            op: Its operation.
            name: Its name.
            inputs: The results it takes; `^name` only waits for a node.
            attributes: What the operation asks for: dtypes, shapes, numbers, words, arrays.
        """
        node = self.definition.node.add(op=op, name=name, input=inputs)
        for key, value in attributes.items():
            _set(node.attr[key], value)
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant: an array, a number or words."""
        array = np.asarray(value)
        return self.add("Const", name, value=array, dtype=_dtype(array))


def _dtype(array: np.ndarray[Any, Any]) -> Any:
    return "DT_STRING" if array.dtype.kind in "OSU" else array.dtype


def _set(attribute: Any, value: Any) -> None:
    if isinstance(value, Shape):
        attribute.shape.CopyFrom(shape(value))
    elif isinstance(value, bool):
        attribute.b = value
    elif isinstance(value, int):
        attribute.i = value
    elif isinstance(value, np.ndarray):
        attribute.tensor.CopyFrom(make_tensor_proto(value))
    elif isinstance(value, list):
        attribute.list.type.extend(map(_type, value))
    elif isinstance(value, bytes):
        attribute.s = value
    else:
        attribute.type = _type(value)


def _type(dtype: Any) -> int:
    return types_pb2.DataType.Value(dtype) if isinstance(dtype, str) else data_type(dtype)


@dataclass(frozen=True, slots=True)
class Answers:
    """The names of a graph's results, by what they are."""

    cluster_index: str
    all_distances: str
    loss: str


def add_answers(
    graph: Graph, inputs: Sequence[Input], distance: Distance, centers: str, dtype: Any
) -> Answers:
    """Add what a model says of its inputs.

    Args:
        graph: The graph.
        inputs: What callers give it; each becomes a placeholder of its name.
        distance: By which distance rows choose centers.
        centers: The result that is the (k, d) centers.
        dtype: Their dtype.
    """
    rows = _rows(graph, inputs)
    wide = graph.add("Cast", "centers", centers, SrcT=dtype, DstT=_WIDE)
    if distance is Distance.SQUARED_EUCLIDEAN:
        scores = found = _squared(graph, rows, wide, _middle(graph, centers, dtype))
    else:
        scores, found = _cosine(graph, rows, wide)
    clipped = graph.add("Maximum", "clipped", found, graph.constant("zero", 0.0), T=_WIDE)
    graph.add("Cast", "all_distances", clipped, SrcT=_WIDE, DstT=np.float32)
    along = graph.constant("along_centers", np.int32(1))
    graph.add(
        "ArgMin", "cluster_index", scores, along, T=_WIDE, Tidx=np.int32, output_type=np.int64
    )
    least = graph.add("Min", "distance", clipped, along, T=_WIDE, Tidx=np.int32)
    graph.add(
        "Sum", "loss", least, graph.constant("along_rows", np.zeros(1, np.int32)), T=_WIDE,
        Tidx=np.int32,
    )  # fmt: skip
    return Answers("cluster_index", "all_distances", "loss")


def _rows(graph: Graph, inputs: Sequence[Input]) -> str:
    """The (n, d) rows that the inputs make side by side, float64."""
    columns = []
    for number, each in enumerate(inputs):
        sizes = Shape((None,) if each.width is None else (None, each.width))
        place = graph.add("Placeholder", f"input_{number}", dtype=each.dtype, shape=sizes)
        # Placeholders do not see to it: one column would be taken for all of them.
        place = graph.add("EnsureShape", f"checked_{number}", place, T=each.dtype, shape=sizes)
        wide = graph.add("Cast", f"wide_{number}", place, SrcT=each.dtype, DstT=_WIDE)
        to = graph.constant(f"shape_{number}", np.array([-1, each.width or 1], np.int32))
        columns.append(graph.add("Reshape", f"column_{number}", wide, to, T=_WIDE, Tshape=np.int32))
    if len(columns) == 1:
        return columns[0]
    along = graph.constant("side_by_side", np.int32(1))
    return graph.add("ConcatV2", "rows", *columns, along, N=len(columns), T=_WIDE, Tidx=np.int32)


def _middle(graph: Graph, centers: str, dtype: Any) -> str:
    """The centers' mean in their own dtype: to subtract it from float32 rows is exact, as ties are.

    The result is (1, d) float64.
    """
    first = graph.constant("first_axis", np.zeros(1, np.int32))
    middle = graph.add("Mean", "middle", centers, first, T=dtype, Tidx=np.int32, keep_dims=True)
    return graph.add("Cast", "middle_wide", middle, SrcT=dtype, DstT=_WIDE)


def _squared(graph: Graph, rows: str, centers: str, middle: str) -> str:
    """|x - c|^2 as |x|^2 - 2 x.c + |c|^2, (n, k)."""
    rows = graph.add("Sub", "rows_around", rows, middle, T=_WIDE)
    centers = graph.add("Sub", "centers_around", centers, middle, T=_WIDE)
    products = _products(graph, rows, centers)
    twice = graph.add("Mul", "twice", products, graph.constant("two", 2.0), T=_WIDE)
    own = _squares(graph, "rows", rows, keep=True)
    left = graph.add("Sub", "left", own, twice, T=_WIDE)
    return graph.add("AddV2", "distances", left, _squares(graph, "centers", centers), T=_WIDE)


def _cosine(graph: Graph, rows: str, centers: str) -> tuple[str, str]:
    """-u.v, which tells more rows apart, and 1 - u.v of rows and centers of length one, (n, k)."""
    units = [_unit(graph, name, each) for name, each in (("rows", rows), ("centers", centers))]
    scores = graph.add("Neg", "scores", _products(graph, *units), T=_WIDE)
    one = graph.constant("one", 1.0)
    return scores, graph.add("AddV2", "distances", one, scores, T=_WIDE)


def _unit(graph: Graph, name: str, rows: str) -> str:
    squares = _squares(graph, name, rows, keep=True)
    least = graph.constant(f"{name}_least", SMALLEST_SQUARED_NORM)
    safe = graph.add("Maximum", f"{name}_safe", squares, least, T=_WIDE)
    scale = graph.add("Rsqrt", f"{name}_scale", safe, T=_WIDE)
    return graph.add("Mul", f"{name}_unit", rows, scale, T=_WIDE)


def _squares(graph: Graph, name: str, rows: str, *, keep: bool = False) -> str:
    squares = graph.add("Square", f"{name}_squared", rows, T=_WIDE)
    last = graph.constant(f"{name}_last_axis", np.ones(1, np.int32))
    return graph.add("Sum", f"{name}_sums", squares, last, T=_WIDE, Tidx=np.int32, keep_dims=keep)


def _products(graph: Graph, rows: str, centers: str) -> str:
    return graph.add(
        "MatMul", "products", rows, centers, T=_WIDE, transpose_a=False, transpose_b=True
    )


def add_variable(graph: Graph, name: str, value: Any) -> tuple[str, bytes]:
    """Add a variable whose value is loaded; the result that is its value, and its description."""
    array = np.asarray(value)
    dtype, sizes = array.dtype, Shape(array.shape)
    graph.add("VarHandleOp", name, dtype=dtype, shape=sizes, shared_name=name.encode())
    read = graph.add("ReadVariableOp", f"{name}/Read", name, dtype=dtype)
    to = graph.constant(f"{name}/shape", np.array(array.shape, np.int32))
    nothing = graph.constant(f"{name}/nothing", array.dtype.type(0))
    first = graph.add("Fill", f"{name}/initial", to, nothing, T=dtype, index_type=np.int32)
    graph.add("AssignVariableOp", f"{name}/Assign", name, first, dtype=dtype)
    described = variable_pb2.VariableDef(
        variable_name=f"{name}:0",
        initial_value_name=f"{first}:0",
        initializer_name=f"{name}/Assign",
        snapshot_name=f"{read}:0",
        is_resource=True,
        trainable=False,
    )
    return read, described.SerializeToString()


@dataclass(frozen=True, slots=True)
class Saver:
    """The names of what loads and stores a graph's variables."""

    filename: str
    saved: str
    restore: str


def add_saver(graph: Graph, variables: Sequence[tuple[str, str, Any]]) -> Saver:
    """Add what loads and stores variables.

    Args:
        graph: The graph.
        variables: Of each its name, the result that is its value, and its dtype.
    """
    names, values, dtypes = zip(*variables, strict=True)
    filename = graph.constant("save/filename", np.array(b"model", object))
    told = graph.constant("save/names", np.array([each.encode() for each in names], object))
    slices = graph.constant("save/slices", np.array([b""] * len(names), object))
    graph.add("SaveV2", "save/SaveV2", filename, told, slices, *values, dtypes=list(dtypes))
    saved = graph.add("Identity", "save/saved", filename, "^save/SaveV2", T="DT_STRING")
    graph.add("RestoreV2", "save/RestoreV2", filename, told, slices, dtypes=list(dtypes))
    for number, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        value = f"save/RestoreV2:{number}"
        graph.add("AssignVariableOp", f"save/Assign_{number}", name, value, dtype=dtype)
    assigned = (f"^save/Assign_{number}" for number in range(len(names)))
    return Saver(filename, saved, graph.add("NoOp", "save/restore", *assigned))
