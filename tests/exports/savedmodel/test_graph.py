"""Graphs in TensorFlow: shapes are checked, an offset costs no precision, nodes have one name."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dkmeans.distance import Distance
from dkmeans.exports.receivers import Input
from dkmeans.exports.savedmodel.graph import Graph, add_results, add_saver, add_variable
from dkmeans.scaling import Scaling
from tests.exports.example_models import predicted


def test_rows_of_another_width_are_refused_by_tensorflow_too(in_tensorflow):
    for shape in ((6, 1), (7,), (6, 8)):
        assert in_tensorflow[shape]["serving_default refused"]


def test_an_offset_that_all_rows_share_costs_tensorflow_no_precision(
    in_tensorflow, offset_model, offset_rows
):
    expected = predicted(offset_model, offset_rows)["cluster_index"]
    assert_array_equal(in_tensorflow["offset"]["serving_default output"], expected)


@pytest.mark.parametrize("distance", Distance)
def test_each_node_has_a_name_of_its_own_and_takes_the_nodes_before_it(distance):
    graph, centers = Graph(), np.zeros((3, 4), np.float32)
    inputs = [Input("a", None, np.dtype(np.int64)), Input("b", 3, np.dtype(np.float32))]
    value, _ = add_variable(graph, "clusters", centers)
    scaling = Scaling.of(np.zeros(4), np.ones(4))
    add_results(graph, inputs, distance, value, centers, scaling)
    add_saver(graph, [("clusters", value, centers.dtype)])
    seen = set()
    for node in graph.definition.node:
        assert node.name not in seen
        assert {each.removeprefix("^").split(":")[0] for each in node.input} <= seen
        seen.add(node.name)
    assert {"cluster_index", "all_distances", "loss", "save/restore"} <= seen


def test_rows_as_far_from_two_centers_get_the_first_one_in_tensorflow_too(in_tensorflow):
    assert in_tensorflow["tied"]["serving_default output"].tolist() == [0, 1]
