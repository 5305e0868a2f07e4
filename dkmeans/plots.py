"""Plots of a model through matplotlib: `model.plot`.

    axes = model.plot.loss()
    model.plot.centers(axes=other_axes)

Each method draws on given axes, or on new ones, and returns them. Text and lines have the colors of
matplotlib's style, so plots suit light and dark pages. matplotlib is imported by the first plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkmeans.checkpoints import Checkpoint
from dkmeans.data.columns import value_names
from dkmeans.errors import Invalid, counted
from dkmeans.extras import needs
from dkmeans.history import losses_of_iterations

# More names than this would overlap.
_MOST_NAMES = 40
# Names with more letters than this are written upwards.
_MOST_LETTERS = 40
# A heat map of more cells than this shows no numbers.
_MOST_NUMBERS = 120
# Longer names of columns are cut in the middle.
_LONGEST_NAME = 24
# Width of a digit as a part of the size of its font.
_LETTER_WIDTH, _POINTS_PER_INCH = 0.64, 72
# float64 has no more digits.
_MOST_DIGITS = 15
# Colors of up to so many clusters are those of matplotlib's style; of more they are of one scale.
_MOST_COLORS = 10


class Plotted(Protocol):
    """A model that can be plotted."""

    def checkpoint(self) -> Checkpoint:
        """Return the latest checkpoint."""

    @property
    def history(self) -> Mapping[str, NDArray[Any]]:
        """Numbers of the iterations."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows that stand for all rows in a plot.

    Attributes:
        points: (n, d) rows, as the distance compares them.
        index: (n,) cluster of each row.
        centers: (k, d) centers.
        names: Names of the columns; None if they have none.
        is_standardized: True if rows and centers are standardized.
    """

    points: NDArray[Any]
    index: NDArray[Any]
    centers: NDArray[Any]
    names: Sequence[str] | None
    is_standardized: bool = False


@dataclass(frozen=True, slots=True)
class ModelPlots:
    """Plots of a model that need no rows."""

    _model: Plotted

    def loss(self, axes: Any = None) -> Any:
        """Draw the loss of each iteration.

        Args:
            axes: Axes of matplotlib to draw on; None for new ones.

        Returns:
            The axes.

        Raises:
            ValueError: no whole iteration is recorded, or matplotlib is not installed.
        """
        steps_per_iteration = self._model.checkpoint().settings.schedule.steps_per_iteration
        steps, losses = losses_of_iterations(self._model.history, steps_per_iteration)
        if not len(steps):
            raise Invalid(
                "the model must have recorded a whole iteration to plot its loss, got none"
            )
        axes = _axes_or_new(axes)
        axes.plot(steps, losses, marker="." if len(steps) < 50 else "")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="step", ylabel="loss", title="Loss of each iteration")
        return axes

    def sizes(self, axes: Any = None) -> Any:
        """Draw the number of rows of each cluster, or the sum of their weights, the largest first.

        They are those of the last iteration; with mini-batches of one step each, of all iterations.

        Args:
            axes: As in `loss`.

        Returns:
            The axes.

        Raises:
            ValueError: the model has taken no step, or matplotlib is not installed.
        """
        state = self._model.checkpoint().state
        if state.inertia is None:
            raise Invalid("the model must have taken an iteration to plot its sizes, got none")
        order = np.argsort(-state.counts, kind="stable")
        axes = _axes_or_new(axes)
        axes.bar(np.arange(len(order)), state.counts[order])
        _name_ticks(axes.xaxis, list(map(str, order)))
        title = f"Sizes of {counted(len(order), 'cluster')}"
        label = "cluster" if len(order) <= _MOST_NAMES else "rank of the cluster"
        axes.set(xlabel=label, ylabel="count", title=title)
        return axes

    def centers(self, axes: Any = None) -> Any:
        """Draw the centers as a heat map, a row for each cluster and a column for each column.

        A color says how far a value is from the mean of its column over the centers, in standard
        deviations. The number in a cell is the value, in the units of the rows that users give.

        Args:
            axes: As in `loss`.

        Returns:
            The axes.

        Raises:
            ValueError: there is no checkpoint, or matplotlib is not installed.
        """
        checkpoint = self._model.checkpoint()
        values = checkpoint.original_centers.astype(np.float64)
        spread = values.std(axis=0)
        scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
        largest = max(1.0, float(np.abs(scaled).max()))
        axes = _axes_or_new(axes)
        image = axes.imshow(scaled, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        axes.figure.colorbar(image, ax=axes, label="standard deviations from the mean")
        if values.size <= _MOST_NUMBERS:
            _number_cells(axes, values, np.abs(scaled) < 0.6 * largest)
        names, width = checkpoint.settings.columns, values.shape[1]
        _name_ticks(axes.xaxis, value_names(names, width) if names else _numbers(width))
        _name_ticks(axes.yaxis, _numbers(len(values)))
        axes.set(xlabel="column", ylabel="cluster", title="Centers")
        return axes


@dataclass(frozen=True, slots=True)
class EstimatorPlots(ModelPlots):
    """Plots of an estimator, which can read rows."""

    _sampled: Callable[[Any], Sample] = field(repr=False)

    def rows(self, input_fn: Any, axes: Any = None) -> Any:
        """Draw a sample of the rows, colored by cluster, and the centers, in two dimensions.

        The two dimensions are the columns, if there are two, else the two principal components of
        the sample. With the cosine distance, rows have length one.

        Args:
            input_fn: Returns the rows, as in `predict`. Up to 2,000 of them are drawn, those of an
                iterator from its first batch.
            axes: As in `loss`.

        Returns:
            The axes.

        Raises:
            ValueError: there is no checkpoint, the rows cannot be used, or matplotlib is not
                installed.
        """
        sample = self._sampled(input_fn)
        points, centers, labels = _projected(sample)
        axes = _axes_or_new(axes)
        colors = _colors(len(centers))
        axes.scatter(*points.T, c=colors[sample.index], s=8, alpha=0.6, linewidths=0)
        edge = axes.xaxis.label.get_color()  # of the style: visible on light and dark
        axes.scatter(*centers.T, c=colors, s=90, marker="X", edgecolors=edge, zorder=3)
        title = f"{counted(len(points), 'row')} and {counted(len(centers), 'center')}"
        axes.set_xlabel(labels[0], parse_math=False)
        axes.set_ylabel(labels[1], parse_math=False)
        axes.set_title(title)
        return axes


def _axes_or_new(axes: Any) -> Any:
    """Return the given axes, or those of a new figure.

    Raises:
        Invalid: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    with needs("a plot", "plot"):
        from matplotlib import pyplot  # noqa: PLC0415 importing it takes time

    return pyplot.subplots(layout="constrained")[1]


def _number_cells(axes: Any, values: NDArray[Any], is_pale: NDArray[np.bool_]) -> None:
    """Write the value into each cell of a heat map, unless the values are wider than the cells."""
    spread = values.std(axis=0)
    texts = [[_short(*pair) for pair in zip(row, spread, strict=True)] for row in values]
    longest = max(len(text) for row in texts for text in row)
    # The layout makes room for names and the color bar only when it draws.
    inches = 0.95 * axes.get_window_extent().width / axes.figure.dpi / values.shape[1]
    size = axes.xaxis.label.get_size()  # in points, of the style
    if longest * _LETTER_WIDTH * size / _POINTS_PER_INCH > inches:
        return
    for (cluster, column), pale in np.ndenumerate(is_pale):
        text, color = texts[cluster][column], "black" if pale else "white"
        axes.text(column, cluster, text, ha="center", va="center", color=color)


def _short(value: float, deviation: float) -> str:
    """Return a number with three digits, or as many as tell it from others of its column."""
    digits = digits_for(value, deviation, 3)
    is_whole = 1e3 <= abs(value) < 1e6 and abs(value) >= 10.0 ** (digits - 1)
    return f"{value:.0f}" if is_whole else f"{value:.{digits}g}"


def digits_for(value: float, deviation: float, fewest: int) -> int:
    """Return how many digits of a value a reader needs, among values with this deviation.

    The deviation is 0 if it is not known. In any case there are as many digits as `fewest`.
    """
    if not (value and deviation > 0 and math.isfinite(value) and math.isfinite(deviation)):
        return fewest
    # The last digit is worth a tenth of the first digit of the deviation.
    needed = math.floor(math.log10(abs(value))) - math.floor(math.log10(deviation)) + 2
    return min(max(fewest, needed), _MOST_DIGITS)


def shown_name(name: str) -> str:
    """Return the name of a column for a chart: in one line, of a long one beginning and end."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    half = _LONGEST_NAME // 2
    return line if len(line) <= _LONGEST_NAME else f"{line[:half]}…{line[1 - half :]}"


def are_upright(names: Sequence[str]) -> bool:
    """Return whether the names of the columns of a heat map are written upwards."""
    return sum(len(name) + 1 for name in names) > _MOST_LETTERS


def _numbers(count: int) -> list[str]:
    return list(map(str, range(count)))


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    """Write a name at each of the first integers of an axis, if they do not overlap."""
    if len(names) > _MOST_NAMES:
        axis.get_major_locator().set_params(integer=True)
        return
    shown = list(map(shown_name, names))
    rotation = 90 if axis.axis_name == "x" and are_upright(shown) else 0
    # A dollar in a name is no beginning of a formula.
    axis.set_ticks(range(len(names)), shown, rotation=rotation, parse_math=False)


def _colors(clusters: int) -> NDArray[Any]:
    """Return a color for each cluster, (k, 4)."""
    from matplotlib import colormaps, colors, rcParams  # noqa: PLC0415 importing it takes time

    cycle = rcParams["axes.prop_cycle"].by_key().get("color", [])
    if clusters <= min(_MOST_COLORS, len(cycle)):
        return np.array([colors.to_rgba(color) for color in cycle[:clusters]])
    return np.asarray(colormaps["turbo"](np.linspace(0.05, 0.95, clusters)))


def _projected(sample: Sample) -> tuple[NDArray[Any], NDArray[Any], tuple[str, str]]:
    """Return rows and centers in two dimensions, and the names of the dimensions."""
    points, centers = sample.points.astype(np.float64), sample.centers.astype(np.float64)
    width = points.shape[1]
    if width == 2:
        names = value_names(sample.names, width)
        how = ", standardized" if sample.is_standardized else ""
        return points, centers, (f"{shown_name(names[0])}{how}", f"{shown_name(names[1])}{how}")
    mean = points.mean(axis=0)
    _, lengths, directions = np.linalg.svd(points - mean, full_matrices=False)
    plane = np.zeros((2, width))
    plane[: min(2, len(directions))] = directions[:2]
    shares = np.square(lengths) / (np.square(lengths).sum() or 1)
    first, second = (float(share) for share in np.pad(shares, (0, 2))[:2])
    labels = (f"principal component 1 ({first:.0%})", f"principal component 2 ({second:.0%})")
    return (points - mean) @ plane.T, (centers - mean) @ plane.T, labels
