"""Export to ONNX: a graph of one matrix product, with the centers as constants.

`Model.export_onnx` calls `model`. The graph computes in float64. For the Euclidean distance the
middle of the centers is subtracted from rows and centers first, so an offset that all rows share
costs no precision.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import SMALLEST_SQUARED_NORM, Distance, directions, squared_norms
from dkmeans.errors import Invalid, counted
from dkmeans.exports.middle_of_centers import middle_of
from dkmeans.prediction.per_chunk import ALL_DISTANCES, CLUSTER_INDEX
from dkmeans.scaling import Scaling

# ONNX 1.13 of early 2023: the version of its operators, and of its file format. Runtimes refuse
# files of later versions than they know.
_OPERATOR_VERSION, _FORMAT_VERSION = 18, 8
# Size limit of a protocol buffer.
_LARGEST_BYTES = 2**31
_ROWS = "rows"
_PRODUCER = "dkmeans"


def model(checkpoint: Checkpoint) -> bytes:
    """Return a model as an ONNX file.

    The input is `rows`, (n, d) in the model's dtype, as users give them: a model that standardizes
    them does so first. The outputs are `cluster_index`, (n,) int64, and `all_distances`, (n, k)
    float32.

    Raises:
        Invalid: the file would be larger than 2 GiB, the limit of the format.
    """
    centers = checkpoint.state.centers
    # The centers are stored as float64; everything else in the file is small.
    if centers.size * 8 >= _LARGEST_BYTES:
        raise Invalid(
            f"ONNX files must be smaller than 2 GiB; got {counted(len(centers), 'center')} x "
            f"{counted(centers.shape[1], 'column')} x 8 bytes = {centers.size * 8 / 2**30:.1f} GiB"
        )
    nodes = _Nodes()
    rows = nodes.add("Cast", _ROWS, to=TensorProto.DOUBLE)
    if checkpoint.settings.scaling is not None:
        rows = _standardized(nodes, rows, checkpoint.settings.scaling, centers.dtype)
    if checkpoint.settings.distance_metric is Distance.COSINE:
        scores, distances = _cosine(nodes, rows, centers)
    else:
        scores = distances = _squared(nodes, rows, centers)
    # Rounding can make the distance of a row at a center negative.
    clipped = nodes.add("Max", distances, nodes.constant(0.0))
    nodes.add("Cast", clipped, to=TensorProto.FLOAT, name=ALL_DISTANCES)
    # The index is taken from the float64 scores: clipping or float32 would make different scores
    # equal.
    nodes.add("ArgMin", scores, axis=1, keepdims=0, name=CLUSTER_INDEX)
    return _file(nodes, checkpoint)


def is_export(beginning: bytes) -> bool:
    """Return whether a file that begins with these bytes is one that `model` has made.

    The first fields of the format are the version, which takes two bytes, and the producer.
    """
    # 0x12 is the tag of the second field, a text; its length follows.
    return beginning[2:].startswith(bytes([0x12, len(_PRODUCER)]) + _PRODUCER.encode())


class _Nodes:
    """Nodes of a graph in the order of computation, and the graph's constants.

    A node is known by the name of its result.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node; return the name of its result."""
        name = name or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _standardized(nodes: _Nodes, rows: str, scaling: Scaling, dtype: Any) -> str:
    """Add the rows less the means, divided by the deviations, (n, d)."""
    rows = nodes.add("Sub", rows, nodes.constant(scaling.means))
    rows = nodes.add("Div", rows, nodes.constant(scaling.deviations))
    # Rounded as `Scaling.standardized` does.
    rounded = nodes.add("Cast", rows, to=helper.np_dtype_to_tensor_dtype(dtype))
    return nodes.add("Cast", rounded, to=TensorProto.DOUBLE)


def _squared(nodes: _Nodes, rows: str, centers: Any) -> str:
    """Add |x - c|^2 as |x|^2 + (|c|^2 - 2 x.c), (n, k)."""
    middle = middle_of(centers)
    centers = centers - middle
    rows = nodes.add("Sub", rows, nodes.constant(middle))
    weights, center_norms = nodes.constant(centers), nodes.constant(squared_norms(centers))
    partial = nodes.add("Gemm", rows, weights, center_norms, alpha=-2.0, transB=1)
    return nodes.add("Add", partial, _squared_norms(nodes, rows))


def _cosine(nodes: _Nodes, rows: str, centers: Any) -> tuple[str, str]:
    """Add -u.v and 1 - u.v of rows and centers of length one, each (n, k).

    The nearest center is taken by -u.v: adding 1 rounds, and would make different scores equal.
    """
    squares = nodes.add("Max", _squared_norms(nodes, rows), nodes.constant(SMALLEST_SQUARED_NORM))
    units = nodes.add("Div", rows, nodes.add("Sqrt", squares))
    scores = nodes.add("Gemm", units, nodes.constant(directions(centers)), alpha=-1.0, transB=1)
    return scores, nodes.add("Add", scores, nodes.constant(1.0))


def _squared_norms(nodes: _Nodes, rows: str) -> str:
    return nodes.add("ReduceSumSquare", rows, nodes.constant(np.array([1])), keepdims=1)


def _file(nodes: _Nodes, checkpoint: Checkpoint) -> bytes:
    k, width = checkpoint.state.centers.shape
    dtype = helper.np_dtype_to_tensor_dtype(checkpoint.state.centers.dtype)
    graph = helper.make_graph(
        nodes.nodes,
        "kmeans",
        [helper.make_tensor_value_info(_ROWS, dtype, ["n", width])],
        [
            helper.make_tensor_value_info(CLUSTER_INDEX, TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info(ALL_DISTANCES, TensorProto.FLOAT, ["n", k]),
        ],
        initializer=nodes.constants,
    )
    exported = helper.make_model(
        graph,
        producer_name=_PRODUCER,
        opset_imports=[helper.make_opsetid("", _OPERATOR_VERSION)],
        ir_version=_FORMAT_VERSION,
    )
    settings, step = checkpoint.settings, checkpoint.state.step
    about = {"distance_metric": str(settings.distance_metric), "global_step": str(step)}
    if settings.columns:
        about["columns"] = json.dumps(settings.columns)
    helper.set_model_props(exported, about)
    # The full check also infers all shapes: a wrong graph fails here, not when it is used.
    onnx.checker.check_model(exported, full_check=True)
    return bytes(exported.SerializeToString())
