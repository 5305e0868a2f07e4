"""The report of a model: one HTML page that describes its clusters, for people.

`write_report` writes the page. The page needs no network: charts are SVG by matplotlib, in the
colors of the page, and each has a table of its numbers (docs/decisions/025). Without rows the page
shows what is in the model's directory; with rows also the indices, a map of the rows, and the rows
that are typical or doubtful.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from importlib import resources
from importlib.metadata import version
from typing import Any

import numpy as np

from dkmeans import storage
from dkmeans.backends import select_processor
from dkmeans.backends.rounding import exact_rows
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.columns import value_names
from dkmeans.distance import Centers, Distance, squared_norms
from dkmeans.errors import Invalid, InvalidType, counted, expected
from dkmeans.estimator import KMeans
from dkmeans.exports import directories
from dkmeans.extras import needs
from dkmeans.history import losses_of_iterations
from dkmeans.indices.quality import SAMPLED, indices_of
from dkmeans.indices.row_sample import RowSample
from dkmeans.input_fn import InputFn
from dkmeans.plots import EstimatorPlots, Sample, are_upright, shown_name
from dkmeans.prediction.measures import Measuring
from dkmeans.report_html import (
    PAPER,
    chart_html,
    chart_style,
    count_text,
    facts_html,
    table_html,
    value_text,
)
from dkmeans.state import FloatArray, sum_up

# Clusters in a table, or columns in the ranking of columns.
_MOST_CLUSTERS = 40
# Columns of a shown row, and columns that describe a cluster.
_MOST_COLUMNS, _MOST_TELLING = 12, 3
# Typical or doubtful rows of a cluster.
_MOST_ROWS = 2
_INDICES_SHOWN = {
    "silhouette": "Silhouette (1 is best, 0 is halfway between two clusters)",
    "ambiguous": "Share of ambiguous rows (second center within 5 %)",
    "davies_bouldin": "Davies-Bouldin index (small is good)",
    "calinski_harabasz": "Calinski-Harabasz index (large is good)",
}
# Height of a letter of a name that is written upwards.
_LETTER_INCHES = 0.09
# Means of all rows of at most this many deviations are shown as 0.
_NEGLIGIBLE_DEVIATIONS = 1e-4
# A column describes a cluster if the means of the cluster and of all rows differ by more than this
# many deviations.
_TELLING_DEVIATIONS = 0.25
# Last bytes of a page, by which an earlier report is known.
_END = b"</main></body></html>\n"
_PARTS = {"read_seconds": "reading", "compute_seconds": "computing"}
_PACKAGES = ("dkmeans", "numpy", "dask", "zarr")


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Results of an evaluation of the rows.

    Attributes:
        indices: Indices by name, as arrays and numbers.
        sample: Sample of the rows.
        rows: Number of rows, or the sum of their weights.
    """

    indices: Mapping[str, Any]
    sample: RowSample
    rows: float

    @property
    def unit(self) -> str:
        """Unit of the sizes of clusters, for people."""
        return "weight of the rows" if self.sample.is_weighted else "rows"

    @property
    def shares(self) -> FloatArray:
        """(k, 1) share of each cluster in the rows."""
        return np.asarray(self.indices["cluster_sizes"], np.float64)[:, None] / self.rows

    @cached_property
    def overall(self) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation of all rows in each column, (d,) each."""
        means, spreads = (
            np.asarray(self.indices[name], np.float64)
            for name in ("cluster_mean", "cluster_deviation")
        )
        filled = self.shares[:, 0] > 0
        mean = (self.shares * means)[filled].sum(axis=0)
        within = np.square(spreads) + np.square(means - mean)
        return mean, np.sqrt((self.shares * within)[filled].sum(axis=0))


def write_report(
    model: KMeans, output: str | os.PathLike[str], input_fn: InputFn | None = None
) -> None:
    """Write the report of a model as one HTML page.

    Args:
        model: The model, as `load` returns it.
        output: Path or URL of the page, which ends in `.html` or `.htm`. Only an earlier page is
            replaced.
        input_fn: Returns the rows that the clusters are described by; they are read once. None
            describes the model without rows.

    Raises:
        ValueError: there is no checkpoint, the rows cannot be used, matplotlib is not installed, or
            the page cannot be written.
        TypeError: `model` is no `KMeans`.
    """
    if not isinstance(model, KMeans):
        raise InvalidType(expected("model", "a KMeans", model))
    with needs("a report", "plot"):
        import matplotlib as mpl  # noqa: PLC0415 importing it takes time
    checkpoint = model.checkpoint()
    with directories.writable("output", output) as address:
        _check_output(address)  # before all rows are read
    evaluation = None if input_fn is None else _evaluate(model, checkpoint, input_fn)
    with mpl.rc_context({**mpl.rcParamsDefault, **chart_style(mpl)}):
        page = _page(model, checkpoint, evaluation)
    with directories.writable("output", output):
        storage.write_whole(address, page.encode())


def _check_output(address: str) -> None:
    """Refuse to replace a file that is no report, and a place where none can be written.

    Raises:
        Invalid: the address does not end in `.html` or `.htm`, a folder or another file is at it,
            or the disk refuses to write there.
    """
    if not address.lower().endswith((".html", ".htm")):
        raise Invalid(expected("output", "a path or URL that ends in .html or .htm", address))
    if storage.is_folder(address):
        raise Invalid(expected("output", "the path or URL of a file, not of a folder", address))
    end, size = storage.read_end(address, len(_END))
    if size and end != _END:
        raise Invalid(expected("output", "new, or an earlier report", address))
    if storage.is_local(address):  # of an object store only the write itself can tell
        storage.check_writable("output", address.rpartition("/")[0] or "/")


def _evaluate(model: KMeans, checkpoint: Checkpoint, input_fn: InputFn) -> _Evaluation:
    centers = model._centers(checkpoint)
    task = Measuring(centers, with_moments=True, with_squares=True, with_sample=True)
    measures = sum_up(model._scores(input_fn, checkpoint, None, (), task))
    assert measures.moments is not None
    assert measures.sample is not None
    names = [*_INDICES_SHOWN, "cluster_sizes", "cluster_silhouette", "cluster_radius"]
    names += ["cluster_mean", "cluster_deviation"]
    scaling = checkpoint.settings.scaling
    found = indices_of(measures.moments, task.centers, (*names, SAMPLED), scaling)
    return _Evaluation(found, measures.sample, float(measures.score.weight))


def _page(model: KMeans, checkpoint: Checkpoint, evaluation: _Evaluation | None) -> str:
    sections = "".join(
        f'<section aria-labelledby="part{number}"><h2 id="part{number}">{escape(title)}</h2>'
        f"{content}</section>"
        for number, (title, content) in enumerate(_sections(model, checkpoint, evaluation))
    )
    css = resources.files("dkmeans").joinpath("report_page.css").read_text("utf-8")
    title = f"{counted(len(checkpoint.state.centers), 'cluster')}: {model.model_dir}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{css}</style></head>'
        f"<body><header><h1>{escape(title)}</h1></header><main>{sections}{_END.decode()}"
    )


def _sections(
    model: KMeans, checkpoint: Checkpoint, evaluation: _Evaluation | None
) -> Iterator[tuple[str, str]]:
    """Yield the title and the content of each part of the page."""
    history = model.history
    names = value_names(checkpoint.settings.columns, checkpoint.state.centers.shape[1])
    yield "Summary", facts_html(_summary(checkpoint, evaluation))
    if evaluation is not None:
        yield "What the clusters are", _clusters(checkpoint, evaluation, names)
        sizes, unit, about = evaluation.indices["cluster_sizes"], evaluation.unit, ""
        yield "Spread and separation", _separation(checkpoint, evaluation)
    else:
        sizes, unit = checkpoint.state.counts, "count"
        schedule = checkpoint.settings.schedule
        of = "all iterations" if schedule.keeps_counts else "the last iteration"
        more = ", and one for the first position of each center" * schedule.first_count
        about = f"<p>The rows of {of}, or the sums of their weights{more}.</p>"
    if checkpoint.state.inertia is not None or evaluation is not None:
        of_each = [[j, count_text(size)] for j, size in enumerate(sizes)]
        title, draw = f"{unit.capitalize()} of each cluster", partial(_draw_sizes, sizes, unit)
        yield "Sizes", about + chart_html(title, draw, ["cluster", unit], of_each)
    yield "Centers", _centers(model, checkpoint, names)
    if evaluation is not None and len(evaluation.sample.rows):
        yield "Map of the rows", _projection(model, checkpoint, evaluation, names)
        yield "Typical and doubtful rows", _rows(model, checkpoint, evaluation, names)
    losses = losses_of_iterations(history, checkpoint.settings.schedule.steps_per_iteration)
    if len(losses[0]):
        pairs = zip(*losses, strict=True)
        table = ["step", "loss"], [[int(step), value_text(loss)] for step, loss in pairs]
        yield "Training", chart_html("Loss of each iteration", model.plot.loss, *table)
        spent = {name: float(np.nansum(history.get(key, 0.0))) for key, name in _PARTS.items()}
        total = float(np.nansum(history.get("seconds", 0.0)))
        spent["all iterations"] = total
        yield "Time", facts_html({name: f"{seconds:,.1f} s" for name, seconds in spent.items()})
    yield "Configuration and versions", facts_html(_configuration(model, checkpoint))


def _summary(checkpoint: Checkpoint, evaluation: _Evaluation | None) -> dict[str, str]:
    state = checkpoint.state
    facts = {
        "Clusters": f"{len(state.centers):,}",
        "Columns": f"{state.centers.shape[1]:,}",
        "Distance": str(checkpoint.settings.distance_metric).replace("_", " "),
        "Step": f"{state.step:,}",
    }
    if checkpoint.settings.scaling is not None:
        facts["Rows are standardized"] = "by the mean and deviation of each column"
    if state.inertia is not None:
        facts["Loss of the last iteration"] = value_text(state.inertia)
    if checkpoint.stop is not None:
        facts["Stopped because"] = checkpoint.stop.reason.value
    if evaluation is not None:
        facts[evaluation.unit.capitalize()] = count_text(evaluation.rows)
        facts |= {
            title: value_text(evaluation.indices[name]) for name, title in _INDICES_SHOWN.items()
        }
    return facts


def _configuration(model: KMeans, checkpoint: Checkpoint) -> dict[str, str]:
    settings = checkpoint.settings
    mode = "all rows in each step"
    if settings.use_mini_batch:
        steps = counted(settings.mini_batch_steps_per_iteration, "step")
        mode = f"mini-batches, {steps} per iteration"
    facts = {"Model": model.model_dir, "Checkpoint": checkpoint.address, "Batches": mode}
    facts["Starts"] = f"{len(checkpoint.fit.starts)}"
    facts["Python"] = platform.python_version()
    return facts | {name: version(name) for name in _PACKAGES}


def _clusters(checkpoint: Checkpoint, evaluation: _Evaluation, names: Sequence[str]) -> str:
    """Return a table of clusters with their most different columns, and one of ranked columns."""
    found, shares = evaluation.indices, evaluation.shares
    sizes, means, spreads = (
        np.asarray(found[name], np.float64)
        for name in ("cluster_sizes", "cluster_mean", "cluster_deviation")
    )
    filled, (overall, deviation) = sizes > 0, evaluation.overall
    scores = (means - overall) / np.where(deviation > 0, deviation, 1.0)
    # The mean of standardized rows is zero but for rounding errors.
    overall = np.where(np.abs(overall) > _NEGLIGIBLE_DEVIATIONS * deviation, overall, 0.0)
    rows = []
    for number in np.flatnonzero(filled)[:_MOST_CLUSTERS].tolist():
        farthest = np.argsort(-np.abs(scores[number]), kind="stable")[:_MOST_TELLING]
        telling = farthest[np.abs(scores[number, farthest]) > _TELLING_DEVIATIONS].tolist()
        texts = [
            f"{'high' if scores[number, j] > 0 else 'low'} {names[j]}: "
            f"{value_text(means[number, j], deviation[j])} "
            f"(all rows: {value_text(overall[j], deviation[j])})"
            for j in telling
        ]
        silhouette = value_text(found["cluster_silhouette"][number])
        share = f"{count_text(sizes[number])} ({shares[number, 0]:.1%})"
        rows.append([number, share, "; ".join(texts) or "no column", silhouette])
    more = int(filled.sum()) - len(rows)
    note = f"<p>{counted(more, 'further cluster')} with rows.</p>" if more > 0 else ""
    about = "<p>Each cluster is described by the columns whose means differ most from those of all "
    about += f"rows, in standard deviations of all rows; up to {_MOST_TELLING} columns, and none "
    about += f"whose mean differs by less than {_TELLING_DEVIATIONS}."
    if checkpoint.settings.distance_metric is Distance.COSINE:
        about += " Means are those of rows of length one, as the cosine distance sees them."
    table = table_html(["cluster", evaluation.unit, "described by", "silhouette"], rows)
    # The share of a column's variance that is not within the clusters.
    inside = (shares * np.square(spreads))[filled].sum(axis=0)
    between = 1.0 - inside / np.where(deviation > 0, np.square(deviation), np.inf)
    between[deviation == 0] = 0.0
    return about + "</p>" + table + note + _ranked_columns(between, names)


def _ranked_columns(between: FloatArray, names: Sequence[str]) -> str:
    """Return a table of the columns, in descending order of variance between the clusters."""
    order = np.argsort(-between, kind="stable")
    rows = [[names[j], f"{between[j]:.0%}"] for j in order[:_MOST_CLUSTERS].tolist()]
    about = "<p>A column tells clusters apart by the share of its variance that lies between them: "
    about += "100 % if all rows of a cluster have one value, 0 % if all clusters have one mean."
    about += f"{_of_all(len(rows), len(names), 'column', 'Those that tell most are shown')}</p>"
    return about + table_html(["column", "variance between the clusters"], rows)


def _separation(checkpoint: Checkpoint, evaluation: _Evaluation) -> str:
    """Return a chart of each cluster's radius, and of the distance to the nearest other center."""
    centers = exact_rows(checkpoint.state.centers, checkpoint.settings.distance_metric)
    radius = np.asarray(evaluation.indices["cluster_radius"], np.float64)
    nearest = np.full(len(centers), np.nan)
    for number, center in enumerate(centers if len(centers) > 1 else ()):
        distances = squared_norms(centers - center)
        distances[number] = np.inf
        nearest[number] = np.sqrt(distances.min())
    rows = [
        [j, value_text(a), value_text(b), value_text(s)]
        for j, (a, b, s) in enumerate(
            zip(radius, nearest, evaluation.indices["cluster_silhouette"], strict=True)
        )
    ]

    def draw(axes: Any) -> None:
        places = np.arange(len(centers))
        axes.bar(places - 0.2, radius, 0.38, label="largest distance of a row from its center")
        axes.bar(places + 0.2, nearest, 0.38, label="distance to the nearest other center")
        axes.set(xlabel="cluster", ylabel="distance")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.3)
        axes.legend(frameon=False, loc="upper left", fontsize=9)

    about = ""
    if checkpoint.settings.distance_metric is Distance.COSINE:
        about = "<p>Distances are those of rows and centers of length one.</p>"
    elif checkpoint.settings.scaling is not None:
        about = "<p>Distances are those of standardized rows, in standard deviations.</p>"
    header = ["cluster", "radius", "distance to the nearest other center", "silhouette"]
    return about + chart_html(
        "Radius of each cluster, and distance to the nearest other center", draw, header, rows
    )


def _draw_sizes(sizes: Any, unit: str, axes: Any) -> None:
    axes.bar(np.arange(len(sizes)), sizes)
    axes.set(xlabel="cluster", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _centers(model: KMeans, checkpoint: Checkpoint, names: Sequence[str]) -> str:
    values, shown = checkpoint.original_centers, list(map(shown_name, names))
    room = _LETTER_INCHES * max(map(len, shown)) if are_upright(shown) else 0.0
    return chart_html(
        "Centers, and how far each value is from the mean of all centers",
        partial(_draw_centers, model),
        ["cluster", *names],
        [[j, *map(value_text, row, values.std(axis=0))] for j, row in enumerate(values)],
        values.shape,
        room,
    )


def _draw_centers(model: KMeans, axes: Any) -> None:
    model.plot.centers(axes)
    *_, color_bar = axes.figure.axes
    color_bar.set_ylabel("std. deviations")  # a longer text is cut where there are few clusters


def _projection(
    model: KMeans, checkpoint: Checkpoint, evaluation: _Evaluation, names: Sequence[str]
) -> str:
    distance = checkpoint.settings.distance_metric
    points, centers = (
        exact_rows(part, distance) for part in (evaluation.sample.rows, checkpoint.state.centers)
    )
    is_standardized = checkpoint.settings.scaling is not None
    sample = Sample(points, evaluation.sample.index, centers, names, is_standardized)
    drawn = EstimatorPlots(model, lambda _: sample)

    def draw(axes: Any) -> None:
        drawn.rows(None, axes)
        axes.set_title("")
        for number, collection in enumerate(axes.collections):
            collection.set_gid(("rows", "centers")[number])
            collection.set_rasterized(number == 0)  # thousands of marks would make a large page
        for number, place in enumerate(axes.collections[1].get_offsets()):
            behind = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}
            offset = {"xytext": (7, 6), "textcoords": "offset points"}
            axes.annotate(str(number), place, bbox=behind, **offset)

    counts = np.bincount(evaluation.sample.index, minlength=len(centers))
    rows = [[j, f"{count:,}"] for j, count in enumerate(counts)]
    title = f"A sample of {counted(len(points), 'row')} and the centers, in two dimensions"
    return chart_html(title, draw, ["cluster", "rows of the sample"], rows)


def _rows(
    model: KMeans, checkpoint: Checkpoint, evaluation: _Evaluation, names: Sequence[str]
) -> str:
    """Return tables of the rows nearest to their center, and of those nearly as near to another."""
    centers, sample = model._centers(checkpoint), evaluation.sample
    if len(centers.values) < 2:
        return "<p>One cluster has no doubtful rows.</p>"
    driver = Centers(centers.values, centers.distance)
    index, distances = select_processor().nearest_two(sample.rows, driver)
    first, second = distances.T
    doubt = np.divide(first, second, out=np.ones(len(first)), where=second > 0)
    scaling = checkpoint.settings.scaling
    shown = sample.rows if scaling is None else scaling.original(sample.rows)
    deviations = sample.rows.std(axis=0, dtype=np.float64)
    if scaling is not None:
        deviations = deviations * scaling.deviations
    texts = [list(map(value_text, row[:_MOST_COLUMNS], deviations)) for row in shown]
    clusters, width = int(index[:, 0].max()) + 1, shown.shape[1]
    about = f"<p>These rows are from a sample of {counted(len(first), 'row')}."
    about += _of_all(_MOST_COLUMNS, width, "column", "The first ones are shown")
    about += _of_all(_MOST_CLUSTERS, clusters, "cluster", "The first ones are shown") + "</p>"
    return about + "".join(
        f"<h3>{title}</h3>" + table_html(*_picked(texts, index, order, names))
        for title, order in (
            ("Nearest to their center", np.argsort(first, kind="stable")),
            ("Nearly as near to another center", np.argsort(-doubt, kind="stable")),
        )
    )


def _picked(
    rows: Sequence[Sequence[str]], index: Any, order: Any, names: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """Return the header, and the first rows of each cluster by `order`."""
    found: list[list[Any]] = []
    for cluster in range(min(_MOST_CLUSTERS, int(index[:, 0].max()) + 1)):
        own = order[index[order, 0] == cluster][:_MOST_ROWS]
        found += [[cluster, int(index[row, 1]), *rows[row]] for row in own.tolist()]
    return ["cluster", "next cluster", *names[:_MOST_COLUMNS]], found


def _of_all(shown: int, count: int, unit: str, which: str) -> str:
    """Return a sentence such as "The first ones are shown: 40 of 64 clusters."; "" if all are."""
    return f" {which}: {shown} of {counted(count, unit)}." if shown < count else ""
