"""Plots of a model: true to its numbers, on light and dark pages."""

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

from dkmeans import Dataset, Invalid, KMeans, load
from dkmeans.feature_columns import bucketized_column, numeric_column
from dkmeans.hooks import SessionRunHook

matplotlib.use("agg")
NAMES = ["hour", "delay", "air_time", "distance"]


def rows_of(d, n=3000):
    rng = np.random.default_rng(d)
    return rng.normal(size=(3, d))[rng.integers(3, size=n)] * 9 + rng.normal(size=(n, d))


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(rows_of(4), columns=NAMES)


@pytest.fixture(scope="module")
def model(frame, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("model") / "m"
    return KMeans(3, model_dir, seed=2, use_mini_batch=False).train(lambda: frame, steps=3)


class Interrupt(SessionRunHook):
    def before_run(self, run_context):
        raise KeyboardInterrupt


def fit(rows, k=3, **given):
    return KMeans(k, seed=2, use_mini_batch=False, **given).train(lambda: rows, steps=2)


def names_on(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_loss_of_each_iteration_is_drawn_also_from_a_directory(model):
    axes = load(model.model_dir).plot.loss()
    (line,) = axes.get_lines()
    assert_array_equal(line.get_xydata().T, [model.history["step"], model.history["loss"]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")


def test_the_loss_of_an_iteration_that_has_not_ended_is_not_drawn():
    rows = rows_of(2, 50)
    model = KMeans(3, seed=2, mini_batch_steps_per_iteration=3).train(lambda: rows, steps=5)
    (line,) = model.plot.loss().get_lines()
    assert line.get_xdata().tolist() == [3]
    assert "Loss of 1 iteration:" in model._repr_html_()


def test_sizes_fall_from_the_largest_cluster_each_with_its_number(model):
    axes, counts = model.plot.sizes(), model.checkpoint().state.counts
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == sorted(counts, reverse=True)
    assert_array_equal(counts[list(map(int, names_on(axes.xaxis)))], heights)


def test_centers_have_the_names_of_their_columns_and_their_values(model):
    axes = model.plot.centers()
    assert names_on(axes.xaxis) == NAMES
    centers = model.cluster_centers()
    assert [text.get_text() for text in axes.texts] == [f"{value:.3g}" for value in centers.ravel()]
    (image,) = axes.get_images()
    assert_allclose(image.get_array(), (centers - centers.mean(axis=0)) / centers.std(axis=0))


def test_names_are_no_formulas_and_long_ones_are_cut_in_the_middle():
    names = [
        "price in $ (2024) per $",
        "$\\frac{$",
        "two\nlines",
        *(f"{'n' * 60}_{i}" for i in (0, 1)),
    ]
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 5)), columns=names)
    axes = fit(rows).plot.centers()
    axes.figure.canvas.draw()  # where a formula would be read
    shown = names_on(axes.xaxis)
    assert shown[:3] == ["price in $ (2024) per $", "$\\frac{$", "two lines"]
    assert shown[3:] == [f"{'n' * 12}…{'n' * 9}_{i}" for i in (0, 1)]
    axes = fit(rows[names[:2]]).plot.rows(lambda: rows[names[:2]])
    axes.figure.canvas.draw()
    assert axes.get_xlabel() == names[0]


def test_centers_are_drawn_on_a_part_of_a_figure_and_rows_of_one_column_of_two_values():
    axes = pyplot.figure().subfigures(1, 2)[0].subplots()
    assert fit(rows_of(2)).plot.centers(axes) is axes
    columns = [bucketized_column(numeric_column("x"), [0.0])]
    rows = {"x": np.linspace(-1.0, 1.0, 50)}
    axes = fit(rows, k=2, feature_columns=columns).plot.rows(lambda: rows)
    assert axes.get_ylabel() == "x_bucketized[1]"


def test_numbers_that_are_wider_than_their_cells_are_left_out():
    def texts(scale, columns):
        axes = fit(np.random.default_rng(0).normal(size=(50, columns)) * scale).plot.centers()
        return [text.get_text() for text in axes.texts]

    assert len(texts(1.0, 6)) == 18
    assert len(texts(1e4, 6)) == 18
    assert not texts(1e9, 12)


def test_many_clusters_and_columns_have_no_names_and_numbers_that_overlap():
    model = fit(np.random.default_rng(0).normal(size=(500, 60)), 50)
    axes = model.plot.centers()
    assert not axes.texts
    assert model.plot.sizes().get_xlabel() == "rank of the cluster"
    axes.figure.canvas.draw()
    assert len(names_on(axes.xaxis)) < 20


def test_an_input_without_rows_is_refused_and_sizes_are_counts():
    model = fit(rows_of(2))
    assert model.plot.sizes().get_ylabel() == "count"
    with pytest.raises(Invalid, match="the input must have at least one batch of rows, got none"):
        model.plot.rows(lambda: Dataset.from_array(rows_of(2)).take(0))


def test_rows_of_two_columns_are_drawn_where_they_are_in_the_color_of_their_cluster():
    rows = pd.DataFrame(rows_of(2), columns=["y", "x"])
    model = fit(rows)
    axes = model.plot.rows(lambda: rows)
    points, centers = axes.collections
    assert_array_equal(centers.get_offsets(), model.cluster_centers())
    assert 1900 < len(points.get_offsets()) <= 2000
    index = [*model.predict_cluster_index(lambda: np.asarray(points.get_offsets()))]
    assert_array_equal(points.get_facecolors()[:, :3], centers.get_facecolors()[index, :3])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("y", "x")


def test_wider_rows_are_drawn_by_the_plane_that_keeps_most_of_their_variance(model, frame):
    axes = model.plot.rows(lambda: frame[NAMES[::-1]])
    points = np.asarray(axes.collections[0].get_offsets())
    share = points.var(axis=0).sum() / frame.var().sum()
    assert 0.9 < share < 1.1  # three clusters lie in a plane
    assert "principal component 1" in axes.get_xlabel()


@pytest.mark.parametrize("width", [1, 5])
def test_rows_are_drawn_whatever_their_width_and_distance(width):
    rows = rows_of(width, 100)
    axes = fit(rows, 12, distance_metric="cosine").plot.rows(lambda: rows)
    assert len(axes.collections[0].get_offsets()) == 100
    assert np.linalg.norm(axes.collections[0].get_offsets(), axis=1).max() <= 2
    assert len(np.unique(axes.collections[1].get_facecolors(), axis=0)) == 12


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_a_plot_is_drawn_on_given_axes_in_colors_of_their_style(model, frame, style):
    with pyplot.style.context(style):
        figure, axes = pyplot.subplots(4)
        plot = model.plot
        for given, draw in zip(axes, (plot.loss, plot.sizes, plot.centers), strict=False):
            assert draw(given) is given
        assert plot.rows(lambda: frame, axes[3]) is axes[3]
        (edge, *_) = axes[3].collections[1].get_edgecolors()
        assert tuple(edge) == to_rgba(matplotlib.rcParams["axes.labelcolor"])
        figure.canvas.draw()


def test_a_plot_of_nothing_is_refused(tmp_path):
    model = KMeans(2, tmp_path / "m")
    for plot in (model.plot.loss, model.plot.sizes):
        with pytest.raises(Invalid, match="Could not find trained model"):
            plot()
    rows = rows_of(2, 50)
    with pytest.raises(KeyboardInterrupt):  # after the first centers are saved
        model.train(lambda: rows, [Interrupt()], steps=1)
    with pytest.raises(Invalid, match="must have recorded a whole iteration"):
        model.plot.loss()
    with pytest.raises(Invalid, match="must have taken an iteration"):
        model.plot.sizes()
    with pytest.raises(Invalid, match="rows must have 2 columns"):
        model.plot.rows(lambda: rows_of(3))
    assert not pyplot.get_fignums()


def test_without_matplotlib_the_error_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        Invalid, match=r"a plot needs the package matplotlib: pip install 'dkm.*plot"
    ):
        model.plot.loss()
