"""The graph of a model in the format of TensorFlow 1, which all versions of TensorFlow load.

`files` calls `add_results`, `add_variable` and `add_saver`. The graph computes in float64. For the
Euclidean distance the middle of the centers is subtracted from rows and centers first, so an offset
that all rows share costs no precision. The error of a squared distance is about 1e-15 of the
squared distance to that middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto import graph_pb2, types_pb2, variable_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from dkmeans.distance import SMALLEST_SQUARED_NORM, Distance
from dkmeans.exports.middle_of_centers import middle_of
from dkmeans.exports.receivers import Input
from dkmeans.exports.savedmodel.protobuf import data_type, shape
from dkmeans.scaling import Scaling
from dkmeans.state import FloatArray

# The version of graphs that TensorFlow 2.12 writes. The operations used here are far older.
_PRODUCER = 1395
_FLOAT64 = np.float64


class Shape(tuple[int | None, ...]):
    """A shape as the value of a node's attribute; None stands for any size."""


class Graph:
    """A graph under construction. A node is known by its name.

    Attributes:
        definition: The graph's protocol message.
    """

    def __init__(self) -> None:
        self.definition = graph_pb2.GraphDef()
        self.definition.versions.producer = _PRODUCER

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return its name, which also names its first result.

        Args:
            op: Name of the operation.
            name: Name of the node.
            inputs: Results that the node takes. `^name` takes no result: it makes the node run
                after the node `name`.
            attributes: Attributes of the operation: dtypes, shapes, numbers, bytes, arrays.
        """
        node = self.definition.node.add(op=op, name=name, input=inputs)
        for key, value in attributes.items():
            _set(node.attr[key], value)
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant, an array, a number or bytes; return its name."""
        array = np.asarray(value)
        return self.add("Const", name, value=array, dtype=_dtype(array))


def _dtype(array: np.ndarray[Any, Any]) -> Any:
    return "DT_STRING" if array.dtype.kind in "OSU" else array.dtype


def _set(attribute: Any, value: Any) -> None:
    """Set an attribute. A list holds dtypes; a value of a type not tested below is a dtype."""
    if isinstance(value, Shape):
        attribute.shape.CopyFrom(shape(value))
    elif isinstance(value, bool):  # before int: a bool is an int in Python
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


def add_results(
    graph: Graph,
    inputs: Sequence[Input],
    distance: Distance,
    centers: str,
    values: FloatArray,
    scaling: Scaling | None,
) -> None:
    """Add the computation of a model's results: `cluster_index`, `all_distances` and `loss`.

    These are (n,) int64, (n, k) float32, and float64, the sum of the distances to the nearest
    centers.

    Args:
        graph: The graph.
        inputs: The inputs. Number i becomes the placeholder `input_i`.
        distance: The distance between rows and centers.
        centers: Name of the result that holds the (k, d) centers.
        values: These centers.
        scaling: Means and deviations by which rows are standardized first; None for none.
    """
    rows, dtype = _rows(graph, inputs), values.dtype
    if scaling is not None:
        rows = _standardized(graph, rows, scaling, dtype)
    wide = graph.add("Cast", "centers", centers, SrcT=dtype, DstT=_FLOAT64)
    if distance is Distance.SQUARED_EUCLIDEAN:
        scores = distances = _squared(graph, rows, wide, values)
    else:
        scores, distances = _cosine(graph, rows, wide)
    # Rounding can make the distance negative if a row equals a center.
    clipped = graph.add("Maximum", "clipped", distances, graph.constant("zero", 0.0), T=_FLOAT64)
    graph.add("Cast", "all_distances", clipped, SrcT=_FLOAT64, DstT=np.float32)
    axis = graph.constant("along_centers", np.int32(1))
    # The index is taken from the float64 scores: clipping or float32 would make different scores
    # equal.
    graph.add(
        "ArgMin", "cluster_index", scores, axis, T=_FLOAT64, Tidx=np.int32, output_type=np.int64
    )
    nearest = graph.add("Min", "distance", clipped, axis, T=_FLOAT64, Tidx=np.int32)
    graph.add(
        "Sum", "loss", nearest, graph.constant("along_rows", np.zeros(1, np.int32)), T=_FLOAT64,
        Tidx=np.int32,
    )  # fmt: skip


def _rows(graph: Graph, inputs: Sequence[Input]) -> str:
    """Add the inputs and join their columns to (n, d) float64 rows."""
    columns = []
    for number, each in enumerate(inputs):
        sizes = Shape((None,) if each.width is None else (None, each.width))
        given = graph.add("Placeholder", f"input_{number}", dtype=each.dtype, shape=sizes)
        # A placeholder does not check shapes, and one column would be broadcast to all columns.
        given = graph.add("EnsureShape", f"checked_{number}", given, T=each.dtype, shape=sizes)
        wide = graph.add("Cast", f"wide_{number}", given, SrcT=each.dtype, DstT=_FLOAT64)
        to = graph.constant(f"shape_{number}", np.array([-1, each.width or 1], np.int32))
        columns.append(
            graph.add("Reshape", f"column_{number}", wide, to, T=_FLOAT64, Tshape=np.int32)
        )
    if len(columns) == 1:
        return columns[0]
    axis = graph.constant("side_by_side", np.int32(1))
    return graph.add("ConcatV2", "rows", *columns, axis, N=len(columns), T=_FLOAT64, Tidx=np.int32)


def _standardized(graph: Graph, rows: str, scaling: Scaling, dtype: Any) -> str:
    """Add the rows less the means, divided by the deviations, (n, d)."""
    means = graph.constant("column_means", scaling.means)
    deviations = graph.constant("column_deviations", scaling.deviations)
    shifted = graph.add("Sub", "less_means", rows, means, T=_FLOAT64)
    scaled = graph.add("RealDiv", "standardized", shifted, deviations, T=_FLOAT64)
    # Rounded as `Scaling.standardized` does.
    rounded = graph.add("Cast", "rounded", scaled, SrcT=_FLOAT64, DstT=dtype)
    return graph.add("Cast", "standardized_rows", rounded, SrcT=dtype, DstT=_FLOAT64)


def _squared(graph: Graph, rows: str, centers: str, values: FloatArray) -> str:
    """Add |x - c|^2 as |x|^2 - 2 x.c + |c|^2, (n, k)."""
    middle = graph.constant("middle", middle_of(values))
    rows = graph.add("Sub", "rows_around", rows, middle, T=_FLOAT64)
    centers = graph.add("Sub", "centers_around", centers, middle, T=_FLOAT64)
    products = _products(graph, rows, centers)
    twice = graph.add("Mul", "twice", products, graph.constant("two", 2.0), T=_FLOAT64)
    row_norms = _squared_norms(graph, "rows", rows, keep=True)
    partial = graph.add("Sub", "left", row_norms, twice, T=_FLOAT64)
    return graph.add(
        "AddV2", "distances", partial, _squared_norms(graph, "centers", centers), T=_FLOAT64
    )


def _cosine(graph: Graph, rows: str, centers: str) -> tuple[str, str]:
    """Add -u.v and 1 - u.v of rows and centers of length one, each (n, k).

    The nearest center is taken by -u.v: adding 1 rounds, and would make different scores equal.
    """
    units = [_unit(graph, name, each) for name, each in (("rows", rows), ("centers", centers))]
    scores = graph.add("Neg", "scores", _products(graph, *units), T=_FLOAT64)
    one = graph.constant("one", 1.0)
    return scores, graph.add("AddV2", "distances", one, scores, T=_FLOAT64)


def _unit(graph: Graph, name: str, rows: str) -> str:
    """Add the rows scaled to length one; a row of zeros stays zero."""
    squares = _squared_norms(graph, name, rows, keep=True)
    least = graph.constant(f"{name}_least", SMALLEST_SQUARED_NORM)
    # The scale of a row of zeros is then finite, and zero times the scale is zero.
    safe = graph.add("Maximum", f"{name}_safe", squares, least, T=_FLOAT64)
    scale = graph.add("Rsqrt", f"{name}_scale", safe, T=_FLOAT64)
    return graph.add("Mul", f"{name}_unit", rows, scale, T=_FLOAT64)


def _squared_norms(graph: Graph, name: str, rows: str, *, keep: bool = False) -> str:
    """Add |x|^2 of each row, (n,); (n, 1) with `keep`."""
    squares = graph.add("Square", f"{name}_squared", rows, T=_FLOAT64)
    last = graph.constant(f"{name}_last_axis", np.ones(1, np.int32))
    return graph.add(
        "Sum", f"{name}_sums", squares, last, T=_FLOAT64, Tidx=np.int32, keep_dims=keep
    )


def _products(graph: Graph, rows: str, centers: str) -> str:
    """Add the inner products of rows and centers, (n, k)."""
    return graph.add(
        "MatMul", "products", rows, centers, T=_FLOAT64, transpose_a=False, transpose_b=True
    )


def add_variable(graph: Graph, name: str, value: Any) -> tuple[str, bytes]:
    """Add a variable with the shape and the dtype of a value, which is loaded from a file.

    Returns:
        Name of the result that holds the value, and the serialized definition of the variable.
    """
    array = np.asarray(value)
    dtype, sizes = array.dtype, Shape(array.shape)
    graph.add("VarHandleOp", name, dtype=dtype, shape=sizes, shared_name=name.encode())
    read = graph.add("ReadVariableOp", f"{name}/Read", name, dtype=dtype)
    # TensorFlow needs an initial value. It is not used: loading restores the variables.
    to = graph.constant(f"{name}/shape", np.array(array.shape, np.int32))
    zero = graph.constant(f"{name}/nothing", array.dtype.type(0))
    initial = graph.add("Fill", f"{name}/initial", to, zero, T=dtype, index_type=np.int32)
    graph.add("AssignVariableOp", f"{name}/Assign", name, initial, dtype=dtype)
    definition = variable_pb2.VariableDef(
        variable_name=f"{name}:0",
        initial_value_name=f"{initial}:0",
        initializer_name=f"{name}/Assign",
        snapshot_name=f"{read}:0",
        is_resource=True,
        trainable=False,
    )
    return read, definition.SerializeToString()


def add_saver(graph: Graph, variables: Sequence[tuple[str, str, Any]]) -> None:
    """Add the nodes that load and save variables: `save/restore` and `save/saved`.

    `save/filename` takes the path of the variables. Each variable is given as its name, the result
    that holds its value, and its dtype.
    """
    names, values, dtypes = zip(*variables, strict=True)
    # A default: loaders feed the path of the variables in its place.
    filename = graph.constant("save/filename", np.array(b"model", object))
    name_list = graph.constant("save/names", np.array([each.encode() for each in names], object))
    # An empty slice stands for the whole variable.
    slices = graph.constant("save/slices", np.array([b""] * len(names), object))
    graph.add("SaveV2", "save/SaveV2", filename, name_list, slices, *values, dtypes=list(dtypes))
    # SaveV2 has no result. This one exists only after the variables are saved.
    graph.add("Identity", "save/saved", filename, "^save/SaveV2", T="DT_STRING")
    graph.add("RestoreV2", "save/RestoreV2", filename, name_list, slices, dtypes=list(dtypes))
    for number, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        value = f"save/RestoreV2:{number}"
        graph.add("AssignVariableOp", f"save/Assign_{number}", name, value, dtype=dtype)
    assigned = (f"^save/Assign_{number}" for number in range(len(names)))
    graph.add("NoOp", "save/restore", *assigned)
