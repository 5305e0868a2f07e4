"""ONNX: a graph of one matrix product, with the centers in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import SMALLEST_SQUARED_NORM, Distance, directions, squared_norms
from dkmeans.errors import Invalid
from dkmeans.prediction.per_chunk import ALL_DISTANCES, CLUSTER_INDEX

# Operations as of ONNX 1.13, of early 2023; and the format of files of that time.
_OPERATIONS, _FORMAT = 18, 8
_LARGEST_BYTES = 2**31
_ROWS = "rows"


def model(checkpoint: Checkpoint) -> bytes:
    """A model as an ONNX file: `rows` (n, d) become `cluster_index` and `all_distances`.

    Computed in float64, of rows around the centers' mean, as `predict` has them.

    Raises:
        Invalid: it would be larger than such a file can be, 2 GiB.
    """
    centers = checkpoint.state.centers
    if centers.size * 8 >= _LARGEST_BYTES:
        raise Invalid(
            f"ONNX files must be smaller than 2 GiB; got {len(centers):,} centers x "
            f"{centers.shape[1]:,} columns x 8 bytes = {centers.size * 8 / 2**30:.1f} GiB"
        )
    steps = _Steps()
    rows = steps.add("Cast", _ROWS, to=TensorProto.DOUBLE)
    if checkpoint.settings.distance_metric is Distance.COSINE:
        scores, found = _cosine(steps, rows, centers)
    else:
        scores = found = _squared(steps, rows, centers)
    clipped = steps.add("Max", found, steps.constant(0.0))
    steps.add("Cast", clipped, to=TensorProto.FLOAT, name=ALL_DISTANCES)
    steps.add("ArgMin", scores, axis=1, keepdims=0, name=CLUSTER_INDEX)
    return _file(steps, checkpoint)


class _Steps:
    """Nodes of a graph in the order in which they are computed, and its constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node; the name of its result."""
        name = name or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _squared(steps: _Steps, rows: str, centers: Any) -> str:
    """|x - c|^2 as |x|^2 + (|c|^2 - 2 x.c), (n, k)."""
    # In the centers' own dtype: to subtract it from float32 rows is exact, as ties are.
    middle = centers.mean(axis=0, keepdims=True).astype(np.float64)
    centers = centers - middle
    rows = steps.add("Sub", rows, steps.constant(middle))
    weights, own = steps.constant(centers), steps.constant(squared_norms(centers))
    left = steps.add("Gemm", rows, weights, own, alpha=-2.0, transB=1)
    return steps.add("Add", left, _squares(steps, rows))


def _cosine(steps: _Steps, rows: str, centers: Any) -> tuple[str, str]:
    """-u.v, which tells more rows apart, and 1 - u.v of rows and centers of length one, (n, k)."""
    squares = steps.add("Max", _squares(steps, rows), steps.constant(SMALLEST_SQUARED_NORM))
    units = steps.add("Div", rows, steps.add("Sqrt", squares))
    scores = steps.add("Gemm", units, steps.constant(directions(centers)), alpha=-1.0, transB=1)
    return scores, steps.add("Add", scores, steps.constant(1.0))


def _squares(steps: _Steps, rows: str) -> str:
    return steps.add("ReduceSumSquare", rows, steps.constant(np.array([1])), keepdims=1)


def _file(steps: _Steps, checkpoint: Checkpoint) -> bytes:
    k, width = checkpoint.state.centers.shape
    dtype = helper.np_dtype_to_tensor_dtype(checkpoint.state.centers.dtype)
    graph = helper.make_graph(
        steps.nodes,
        "kmeans",
        [helper.make_tensor_value_info(_ROWS, dtype, ["n", width])],
        [
            helper.make_tensor_value_info(CLUSTER_INDEX, TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info(ALL_DISTANCES, TensorProto.FLOAT, ["n", k]),
        ],
        initializer=steps.constants,
    )
    made = helper.make_model(
        graph,
        producer_name="dkmeans",
        opset_imports=[helper.make_opsetid("", _OPERATIONS)],
        ir_version=_FORMAT,
    )
    metric, step = checkpoint.settings.distance_metric, checkpoint.state.step
    helper.set_model_props(made, {"distance_metric": str(metric), "global_step": str(step)})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())
