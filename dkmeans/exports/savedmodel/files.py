"""Files of a SavedModel: one meta graph for each mode, and the variables that the graphs share.

`Model.export_saved_model` calls `files`. TensorFlow's `saved_model.proto` defines the content, and
the documented estimator defines the signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorboard.compat.proto import meta_graph_pb2

from dkmeans.checkpoints import Checkpoint
from dkmeans.exports.receivers import Input, ServingInputReceiver, check_input_width
from dkmeans.exports.savedmodel import protobuf
from dkmeans.exports.savedmodel.graph import Graph, add_results, add_saver, add_variable
from dkmeans.exports.savedmodel.variables import bundle
from dkmeans.modes import ModeKeys
from dkmeans.prediction.per_chunk import ALL_DISTANCES, CLUSTER_INDEX

# Tag and method names are constants of TensorFlow: loaders look for them.
_TAGS = {ModeKeys.PREDICT: "serve", ModeKeys.TRAIN: "train", ModeKeys.EVAL: "eval"}
_METHODS = {
    ModeKeys.PREDICT: "tensorflow/serving/predict",
    ModeKeys.TRAIN: "tensorflow/supervised/training",
    ModeKeys.EVAL: "tensorflow/supervised/eval",
}
_SCHEMA_VERSION = 1
_DTYPES = {CLUSTER_INDEX: np.int64, ALL_DISTANCES: np.float32, "loss": np.float64}


def files(
    checkpoint: Checkpoint, receivers: Mapping[ModeKeys, ServingInputReceiver], *, as_text: bool
) -> dict[str, bytes]:
    """Return the files of a SavedModel by their names in its directory, `saved_model.pb` last.

    There is a graph for each mode of `receivers`. With `as_text` the graphs are written as text,
    to `saved_model.pbtxt`.

    Raises:
        InvalidData: the inputs do not have as many columns as the model.
        Invalid: the inputs are wrong in another way.
    """
    variables = {
        "clusters": checkpoint.state.centers,
        "global_step": np.int64(checkpoint.state.step),
    }
    graphs = [_meta_graph(checkpoint, mode, receiver) for mode, receiver in receivers.items()]
    content = {"saved_model_schema_version": _SCHEMA_VERSION, "meta_graphs": graphs}
    model = protobuf.message("SavedModel", **content)
    contents = {f"variables/{name}": data for name, data in bundle(variables).items()}
    # The graphs come last: a directory with `saved_model.pb` is taken for complete.
    if as_text:
        return {**contents, "saved_model.pbtxt": text_format.MessageToString(model).encode()}
    return {**contents, "saved_model.pb": model.SerializeToString()}


def _meta_graph(checkpoint: Checkpoint, mode: ModeKeys, receiver: ServingInputReceiver) -> Any:
    inputs = receiver.inputs(checkpoint.settings.columns)
    centers = checkpoint.state.centers
    check_input_width(inputs, centers.shape[1])
    graph, meta = Graph(), meta_graph_pb2.MetaGraphDef()
    # Only shape and dtype matter here: the values come from the variables' files when loading.
    step, step_definition = add_variable(graph, "global_step", np.int64(0))
    value, definition = add_variable(graph, "clusters", np.zeros_like(centers))
    distance, scaling = checkpoint.settings.distance_metric, checkpoint.settings.scaling
    add_results(graph, inputs, distance, value, centers, scaling)
    variables = [("clusters", value, centers.dtype), ("global_step", step, np.int64)]
    add_saver(graph, variables)
    meta.graph_def.CopyFrom(graph.definition)
    meta.meta_info_def.tags.append(_TAGS[mode])
    meta.meta_info_def.stripped_default_attrs = True
    # Loaders find the variables of the graph in this collection.
    meta.collection_def["variables"].bytes_list.value.extend([definition, step_definition])
    meta.saver_def.filename_tensor_name = "save/filename:0"
    meta.saver_def.save_tensor_name = "save/saved:0"
    meta.saver_def.restore_op_name = "save/restore"
    meta.saver_def.version = meta.saver_def.V2
    for name, outputs in _signatures(mode).items():
        meta.signature_def[name].CopyFrom(_signature(inputs, outputs, _METHODS[mode]))
    return meta


def _signatures(mode: ModeKeys) -> dict[str, dict[str, str]]:
    """Return the signatures of a mode: for each, the node of each output by the output's name."""
    if mode is ModeKeys.PREDICT:
        return {
            "serving_default": {"output": CLUSTER_INDEX},
            CLUSTER_INDEX: {"output": CLUSTER_INDEX},
            ALL_DISTANCES: {"output": ALL_DISTANCES},
        }
    outputs = {
        "loss": "loss",
        f"predictions/{CLUSTER_INDEX}": CLUSTER_INDEX,
        f"predictions/{ALL_DISTANCES}": ALL_DISTANCES,
    }
    if mode is ModeKeys.EVAL:
        # An estimator's metric is a value and an operation that adds a batch. There is no state
        # here, so both are the loss of the batch.
        outputs |= {"metrics/score/value": "loss", "metrics/score/update_op": "loss"}
    return {str(mode): outputs}


def _signature(inputs: tuple[Input, ...], outputs: Mapping[str, str], method: str) -> Any:
    signature = meta_graph_pb2.SignatureDef(method_name=method)
    for number, each in enumerate(inputs):
        tensor = signature.inputs[each.name]
        sizes = (None,) if each.width is None else (None, each.width)
        tensor.CopyFrom(_tensor(f"input_{number}", each.dtype, sizes))
    for name, result in outputs.items():
        signature.outputs[name].CopyFrom(_tensor(result, _DTYPES[result], None))
    return signature


def _tensor(name: str, dtype: Any, sizes: tuple[int | None, ...] | None) -> Any:
    """Return the description of a node's first result; `sizes` None leaves the shape open."""
    tensor = meta_graph_pb2.TensorInfo(name=f"{name}:0", dtype=protobuf.data_type(dtype))
    if sizes is None:
        tensor.tensor_shape.unknown_rank = True
    else:
        tensor.tensor_shape.CopyFrom(protobuf.shape(sizes))
    return tensor
