"""The report of a model, opened in a real browser."""

import re
import shutil
import warnings
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

import dkmeans
from dkmeans import Dataset, Invalid, InvalidType, KMeans
from dkmeans.feature_columns import bucketized_column, numeric_column
from dkmeans.report_page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NAMES = ("delay", "<hour>", 'speed & "way"')


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    columns = rows()
    model = KMeans(
        4, tmp_path_factory.mktemp("m"), "kmeans_plus_plus", seed=1, use_mini_batch=False
    )
    model.train(lambda: columns, max_steps=20)
    return model


def rows():
    rng = np.random.default_rng(3)
    middles = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9.0]])
    points = middles[rng.integers(4, size=2000)] + rng.normal(size=(2000, 3))
    return dict(zip(NAMES, points.T.astype(np.float32), strict=True))


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_a_browser_shows_every_chart_without_network_or_errors(
    browser, model, tmp_path, width, scheme
):
    page_file = tmp_path / "report.html"
    write_report(model, page_file, rows)
    viewport = {"width": width, "height": 900}
    with browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = context.new_page()
        noise = []
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url))
        page.goto(page_file.as_uri())
        assert [url for url in noise if not url.startswith(("file:", "data:"))] == []
        # Nothing but charts and tables is wider than the page.
        assert page.evaluate("document.documentElement.scrollWidth") == width
        headings = page.locator("h2").all_inner_texts()
        assert headings[1:4] == ["What the clusters are", "Spread and separation", "Sizes"]
        charts = page.get_by_role("img")
        # Bars of both kinds, bars, numbers of cells, centers with their names, and a line.
        found = charts.evaluate_all(
            "svgs => svgs.map(s => [s.querySelectorAll('path').length, "
            "s.querySelectorAll('text').length, s.getBoundingClientRect().height])"
        )
        assert len(found) == 5
        assert all(paths > 5 and texts > 5 and height > 100 for paths, texts, height in found)
        assert page.locator("#centers use").count() == 4
        ink = charts.first.locator("text").first
        assert ink.evaluate("t => getComputedStyle(t).fill") == page.evaluate(
            "getComputedStyle(document.body).color"
        )
        # By the keyboard, the first stop is a table, and its numbers can be opened.
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details").first.get_by_role("row").count() == 5
        assert "high delay" in page.get_by_role("table").first.inner_text()
        assert 'speed & "way"' in page.content().replace("&quot;", '"').replace("&amp;", "&")
        told = page.locator("section").nth(1).inner_text()
        assert len(re.findall(r"high (delay|<hour>|speed)", told)) >= 3
        shares = [int(share) for share in re.findall(r"\t(\d+)%$", told, re.MULTILINE)]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)


def test_a_model_without_rows_and_one_without_names_have_a_page(model, tmp_path):
    write_report(model, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "What the clusters are" not in text
    assert "Loss of each iteration" in text
    points = np.random.default_rng(1).normal(size=(60, 70))
    wide = KMeans(1, tmp_path / "wide", points[:1], "cosine", use_mini_batch=False)
    wide.train(lambda: points, max_steps=2)
    write_report(dkmeans.load(tmp_path / "wide"), tmp_path / "b.html", lambda: points)
    assert "column 69" in (tmp_path / "b.html").read_text()


def test_iterations_that_have_not_ended_and_large_offsets_have_the_right_numbers(tmp_path):
    # Deviations of such rows in float32 are wrong in the first digit.
    points = (5e6 + 2 * np.random.default_rng(1).normal(size=(600, 2))).astype(np.float32)
    model = KMeans(2, tmp_path / "m", points[:2], mini_batch_steps_per_iteration=3)
    model.train(lambda: Dataset.from_array(points).batch(100).repeat(), steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(model, tmp_path / "r.html", lambda: points)
    page = (tmp_path / "r.html").read_text()
    losses = page.partition("Loss of each iteration")[2].partition("</tbody>")[0]
    assert re.findall(r"(\d+)</span></th><td>", losses) == ["3"]
    rows = page.partition("Typical and doubtful rows")[2]
    # A deviation above two would leave one digit less.
    assert re.search(r"\d,\d{3},\d{3}\.\d", rows)


def test_the_mean_of_standardized_rows_is_zero(tmp_path):
    points = np.random.default_rng(1).normal(size=(500, 2)) + 3
    points = ((points - points.mean(axis=0)) / points.std(axis=0)).astype(np.float32)
    model = KMeans(2, tmp_path / "m", points[:2], use_mini_batch=False)
    model.train(lambda: points, max_steps=5)
    write_report(model, tmp_path / "r.html", lambda: points)
    told = re.findall(r"all rows: ([^)]*)", (tmp_path / "r.html").read_text())
    assert set(told) == {"0"}


def test_a_cluster_that_is_all_rows_is_told_by_no_column(tmp_path):
    points = np.random.default_rng(1).normal(size=(60, 2))
    model = KMeans(1, tmp_path / "m", use_mini_batch=False).train(lambda: points, max_steps=2)
    write_report(model, tmp_path / "r.html", lambda: points)
    page = (tmp_path / "r.html").read_text()
    assert "<td>no column</td>" in page
    assert "all rows:" not in page


def test_the_chart_of_the_centers_has_room_for_columns_and_shows_names_as_they_are(tmp_path):
    names = ["$\\frac{$", "顧客", *(f"average_monthly_revenue_{i}" for i in range(10))]
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(60, 12)), columns=names)
    widths = []
    for columns in (names[:2], names):
        given = rows[columns]
        model = KMeans(2, tmp_path / f"{len(columns)}", use_mini_batch=False)
        model.train(lambda given=given: given, max_steps=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_report(model, tmp_path / "r.html", lambda given=given: given)
        page = (tmp_path / "r.html").read_text()
        chart = page[page.index('aria-label="Centers, and how far') :]
        assert "$\\frac{$</text>" in chart
        assert "顧客</text>" in chart
        widths.append(float(re.search(r'viewBox="0 0 ([\d.]+)', chart)[1]))
    assert widths[1] > 1.9 * widths[0]


def test_columns_of_several_values_have_a_name_for_each(tmp_path):
    columns = [numeric_column("age"), bucketized_column(numeric_column("size"), [2.0, 5.0])]
    rows = {"age": np.arange(60.0), "size": np.arange(60.0) % 7}
    model = KMeans(2, tmp_path / "m", use_mini_batch=False, feature_columns=columns)
    model.train(lambda: rows, max_steps=2)
    write_report(model, tmp_path / "r.html", lambda: rows)
    page = (tmp_path / "r.html").read_text()
    for name in ("age", *(f"size_bucketized[{number}]" for number in range(3))):
        assert f'<th scope="row"><span class="name">{name}</span></th>' in page


def test_numbers_have_the_digits_that_tell_the_clusters_apart(tmp_path):
    rng = np.random.default_rng(2)
    which = rng.integers(2, size=400)
    rows = {
        "year": 2013 + 0.2 * which + 0.01 * rng.normal(size=400),
        "time": 1.7e9 + 0.4 * which + 0.01 * rng.normal(size=400),
        "latitude": 47.371 + 0.001 * which + 1e-5 * rng.normal(size=400),
    }
    table = pd.DataFrame(rows)
    model = KMeans(2, tmp_path / "m", "kmeans_plus_plus", seed=1, use_mini_batch=False)
    model.train(lambda: Dataset.from_array(table.to_numpy()).standardize(), max_steps=5)
    write_report(model, tmp_path / "r.html", lambda: table.to_numpy())
    page = (tmp_path / "r.html").read_text()
    told = re.findall(r"(column \d): ([\d,.]+) \(all rows: ([\d,.]+)\)", page)
    assert len(told) == 6
    assert all(mean != overall for _, mean, overall in told)
    assert "column 0: 2,013.2" in page


def test_what_is_left_out_and_what_counts_by_weight_is_said(tmp_path):
    rng = np.random.default_rng(2)
    points, weights = rng.normal(size=(300, 50)), rng.random(300)
    wide = KMeans(45, tmp_path / "m", points[:45], "cosine", use_mini_batch=False)
    wide.train(lambda: points, max_steps=2)
    write_report(wide, tmp_path / "r.html", lambda: Dataset.from_array(points, weights))
    page = (tmp_path / "r.html").read_text()
    for said in (
        "The first ones are shown: 12 of 50 columns. The first ones are shown: 40 of 45 clusters.",
        "Those that tell most are shown: 40 of 50 columns.",
        "Means are those of rows of length one",
        "<dt>Weight of the rows</dt>",
        "Weight of the rows of each cluster",
    ):
        assert said in page


def test_counts_of_a_checkpoint_are_not_called_rows(tmp_path):
    points = np.random.default_rng(2).normal(size=(100, 2)).astype(np.float32)
    model = KMeans(2, tmp_path / "m", "random", seed=0)
    model.train(lambda: Dataset.from_array(points).batch(10).repeat(), max_steps=50)
    write_report(model, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Count of each cluster" in page
    assert "The rows of all iterations, or the sums of their weights, and one for the" in page
    assert "Rows of each cluster" not in page


def test_a_few_weights_among_many_rows_are_weights(tmp_path):
    points = np.random.default_rng(2).normal(size=(20_000, 2)).astype(np.float32)
    weights = np.ones(20_000)
    weights[[7, 70, 700]] = 5
    model = KMeans(2, tmp_path / "m", points[:2], use_mini_batch=False)
    model.train(lambda: points, max_steps=1)
    write_report(model, tmp_path / "r.html", lambda: Dataset.from_array(points, weights))
    page = (tmp_path / "r.html").read_text()
    assert "<dt>Weight of the rows</dt><dd>20,012</dd>" in page


def test_only_an_earlier_page_is_replaced_and_that_is_found_before_rows_are_read(model, tmp_path):
    def never():
        raise AssertionError("rows were read")

    taken, folder = tmp_path / "rows.html", tmp_path / "folder.html"
    taken.write_bytes(b"rows")
    folder.mkdir()
    with pytest.raises(Invalid, match=r"output must be new, or an earlier report, got '.*'"):
        write_report(model, taken, never)
    assert taken.read_bytes() == b"rows"
    with pytest.raises(Invalid, match="the path or URL of a file, not of a folder"):
        write_report(model, folder, never)
    for name in ("report.pdf", "report"):
        with pytest.raises(Invalid, match=rf"output must be .* in \.html or \.htm, got '.*{name}'"):
            write_report(model, tmp_path / name, never)
        assert not (tmp_path / name).exists()
    for _ in range(2):
        write_report(model, tmp_path / "r.html")


def test_a_page_is_the_same_each_time(model, tmp_path):
    weights = np.ones(2000)
    points = np.stack(list(rows().values()), axis=1)
    a, b = tmp_path / "a.html", tmp_path / "b.html"
    for page in (a, b):
        write_report(model, page, lambda: Dataset.from_array(points, weights))
    assert a.read_bytes() == b.read_bytes()


def test_rows_of_which_all_have_the_weight_zero_are_refused(model, tmp_path):
    given = rows(), {"weights": np.zeros(2000)}
    with pytest.raises(Invalid, match="must not all have the weight zero"):
        write_report(model, tmp_path / "p.html", lambda: given)


def test_what_is_no_model_or_no_place_is_refused(model, tmp_path):
    with pytest.raises(InvalidType, match="model must be a KMeans, got 'model'"):
        write_report("model", tmp_path / "r.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="output"):
        write_report(model, tmp_path / "file" / "r.html")
