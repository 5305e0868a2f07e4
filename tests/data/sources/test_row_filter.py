"""Filters of Parquet rows: as pandas writes them, down to folders, row groups and rows."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, Invalid, InvalidType
from dkmeans.data.sources import parquet
from dkmeans.data.sources.row_filter import RowFilter
from tests.data.sources.rows import chunks_of, loaded

DAY = datetime.date(2024, 1, 1)
TABLE = pa.table(
    {
        "x": np.arange(120, dtype=np.float32),
        "n": pa.array([None if i % 7 == 0 else i % 11 for i in range(120)], pa.int64()),
        "f": [np.nan if i % 5 == 0 else float(i // 30) for i in range(120)],
        "word": [f"w{i % 3}" for i in range(120)],
        "day": [DAY + datetime.timedelta(days=i) for i in range(120)],
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four files in folders of two years and two kinds, each of three row groups."""
    root = tmp_path_factory.mktemp("rows")
    for number in range(4):
        part = root / f"year={2023 + number // 2}" / f"kind={'ab'[number % 2]}"
        part.mkdir(parents=True)
        pq.write_table(TABLE[30 * number : 30 * number + 30], part / "0.parquet", row_group_size=10)
    return str(root)


TERMS = st.one_of(
    st.tuples(
        st.just("x"), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.integers(0, 120)
    ),
    st.tuples(st.just("n"), st.sampled_from(["<", ">=", "!="]), st.integers(0, 11)),
    st.tuples(st.just("f"), st.sampled_from(["<=", ">=", "==", "!="]), st.integers(0, 3)),
    st.tuples(st.just("word"), st.sampled_from(["in", "not in"]), st.just(["w0", "w2"])),
    st.tuples(st.just("day"), st.just(">="), st.sampled_from([DAY, "2024-02-14"])),
    st.tuples(st.just("year"), st.sampled_from(["=", "<", "!="]), st.sampled_from([2024, "2024"])),
    st.tuples(st.just("kind"), st.just("=="), st.sampled_from("abc")),
)


def meeting(terms):
    """Return which rows meet all terms, by pandas."""
    frame = TABLE.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame["day"] = frame["day"].astype(str)
    frame["year"], frame["kind"] = (
        2023 + frame.index // 60,
        np.array(list("ab"))[frame.index // 30 % 2],
    )
    met = np.ones(120, bool)
    for column, comparison, value in terms:
        value = str(value) if column == "day" else int(value) if column == "year" else value
        values = frame[column]
        found = {
            "<": pd.Series.lt,
            "<=": pd.Series.le,
            ">": pd.Series.gt,
            ">=": pd.Series.ge,
            "==": pd.Series.eq,
            "=": pd.Series.eq,
            "!=": pd.Series.ne,
            "in": pd.Series.isin,
            "not in": lambda values, others: ~values.isin(others),
        }[comparison](values, value)
        met &= found.fillna(False).to_numpy(bool)
    return met


@given(st.lists(st.lists(TERMS, min_size=1, max_size=3), min_size=1, max_size=2))
def test_the_rows_that_meet_a_filter_are_those_of_pandas(folder, filters):
    met = np.any([meeting(terms) for terms in filters], axis=0)
    if not met.any():
        with pytest.raises(Invalid, match="filtered, must have at least one row, got none"):
            Dataset.from_parquet(folder, ["x"], filters=filters)
        return
    dataset = Dataset.from_parquet(folder, ["x"], filters=filters)
    assert dataset.rows == met.sum()
    assert loaded(dataset)[:, 0].tolist() == np.flatnonzero(met).tolist()
    small = dataset.in_chunks_of(40).batch(7)
    assert loaded(small)[:, 0].tolist() == np.flatnonzero(met).tolist()


def test_folders_and_statistics_leave_out_files_and_row_groups_without_reading_them(
    folder, monkeypatch
):
    described, counted = [], []

    def count(table, before=parquet.ParquetRows.matches):
        counted.extend(table.groups)
        return before(table)

    def describe(footers, file, *more, before=parquet._of_file):
        described.append(file.path)
        return before(footers, file, *more)

    monkeypatch.setattr(parquet.ParquetRows, "matches", count)
    monkeypatch.setattr(parquet, "_of_file", describe)
    filters = [("year", ">", 2023), ("day", ">=", "2024-04-03")]  # row 93, of the last file
    dataset = Dataset.from_parquet(folder, ["x"], filters=filters)
    assert dataset.rows == 27
    assert len(described) == 2
    assert counted == [0]
    (chunk,) = chunks_of(dataset)
    assert chunk.source.groups == (0, 1, 2)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "filters must be a list of"),
        ("x > 3", "filters must be a list of"),
        ([("x", ">")], "filters must be a list of"),
        ([("x", "~", 3)], "filters must be of comparisons =, ==, .* got '~'"),
        ([("z", ">", 3)], r"filters must be of columns of .*0.parquet \(.*\), got 'z'"),
        ([("n", ">", "many")], "comparisons of 'n' with values of its type, int64, got 'many'"),
        ([("word", ">", 3)], "comparisons of 'word' with values of its type, string, got 3"),
        ([("n", "in", "3")], "filters with 'in' must be of a list of values, got '3'"),
        ([("n", "==", None)], "filters must be of comparisons with values"),
        ([("n", "in", [])], "filters must be of comparisons with values"),
        ([("n", ">", np.float64(1e9))], "must have at least one row, got none"),
    ],
)
def test_filters_that_cannot_be_used_are_refused(folder, filters, message):
    with pytest.raises((Invalid, InvalidType), match=message):
        Dataset.from_parquet(folder, ["x"], filters=filters)


OF_VALUES = {
    pa.int64(): int,
    pa.float64(): lambda value: np.nan if value == 4 else float(value),
    pa.string(): lambda value: "abcde"[value],
    pa.date32(): lambda value: DAY + datetime.timedelta(days=value),
}
# Sorted, so that all values of a row group are often equal: its statistics then decide much.
FEW_VALUES = st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=12).map(
    lambda values: sorted(values, key=lambda value: value or 0)
)
FEW_TERMS = st.one_of(
    st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(st.integers(0, 3), min_size=1)),
)


@given(
    st.sampled_from(list(OF_VALUES)),
    FEW_VALUES,
    st.lists(st.lists(FEW_TERMS, min_size=1, max_size=2), min_size=1, max_size=2),
)
def test_missing_and_equal_values_meet_a_filter_as_in_a_table_in_memory(
    tmp_path_factory, kind, values, filters
):
    def of(value):
        return None if value is None else OF_VALUES[kind](value)

    filters = [
        [
            ("y", how, list(map(of, value)) if how.endswith("in") else of(value))
            for how, value in terms
        ]
        for terms in filters
    ]
    x = np.arange(len(values), dtype=np.float32)
    table = pa.table({"x": x, "y": pa.array(map(of, values), kind)})
    path = str(tmp_path_factory.getbasetemp() / "few.parquet")
    pq.write_table(table, path, row_group_size=3)
    met = table.filter(pq.filters_to_expression(filters))["x"].to_pylist()
    opened = pads.dataset(path)
    if not met:
        with pytest.raises(Invalid, match="must have at least one row, got none"):
            Dataset.from_parquet(path, ["x"], filters=filters)
        with pytest.raises(Invalid, match="must have at least one row, got none"):
            Dataset.from_arrow(opened, ["x"], filters=filters)
        return
    stored = Dataset.from_parquet(path, ["x"], filters=filters)
    for dataset in (stored, Dataset.from_arrow(opened, ["x"], filters=filters)):
        assert dataset.rows == len(met)
        assert loaded(dataset)[:, 0].tolist() == met


@pytest.mark.parametrize(
    ("terms", "met"),
    [
        ([("price", "<", "2.555")], [0]),
        ([("price", "in", [2.555, 2.56])], [1]),
        ([("price", "=", 2.55)], [0]),
        ([("x", ">", Decimal("0.5"))], [1]),
        ([("x", "<", 10**30)], [0, 1]),
        ([("year", ">=", "+2024")], [1]),
        ([("at", "<", "2024-01-02T00:00:00Z")], [0]),
    ],
)
def test_text_and_numbers_are_compared_with_all_their_digits(tmp_path, terms, met):
    table = pa.table(
        {
            "x": np.arange(2, dtype=np.float32),
            "price": pa.array([Decimal("2.55"), Decimal("2.56")], pa.decimal128(10, 2)),
            "year": [2023, 2024],
            "at": pa.array([DAY, DAY + datetime.timedelta(days=1)]).cast(pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = Dataset.from_parquet(str(tmp_path / "a.parquet"), ["x"], filters=terms)
    assert loaded(dataset)[:, 0].tolist() == met
    with pytest.raises(Invalid, match="such as '2024-01-31T00:00:00Z', got '2024-01-02'"):
        Dataset.from_parquet(
            str(tmp_path / "a.parquet"), ["x"], filters=[("at", "<", "2024-01-02")]
        )
    with pytest.raises(Invalid, match=r"its type, decimal128\(10, 2\), got 'much'"):
        Dataset.from_parquet(str(tmp_path / "a.parquet"), ["x"], filters=[("price", "<", "much")])


@pytest.mark.parametrize(
    ("terms", "met"),
    [
        ([("h", "=", 5)], [1]),
        ([("h", ">", "5")], [0, 2]),
        ([("h", "in", [2**63, 7])], [0]),
        ([("h", "not in", [2.0**63])], [1, 2]),
        ([("h", "<", np.uint64(2**64 - 1))], [0, 1]),
    ],
)
def test_large_unsigned_numbers_are_compared_with_all_their_digits(tmp_path, terms, met):
    hashes = pa.array([2**63, 5, 2**64 - 1], pa.uint64())
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": np.arange(3, dtype=np.float32), "h": hashes}), path)
    opened = pads.dataset(path)
    for dataset in (
        Dataset.from_parquet(path, ["x"], filters=terms),
        Dataset.from_arrow(opened, ["x"], filters=terms),
    ):
        assert loaded(dataset)[:, 0].tolist() == met
    for value in ("many", True, np.nan, None):
        with pytest.raises(Invalid, match="comparisons"):
            Dataset.from_parquet(path, ["x"], filters=[("h", "=", value)])


LIMITS = np.iinfo(np.int8)


@given(
    st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "not in"]),
    st.one_of(st.integers(-400, 400), st.fractions(-5, 5, max_denominator=4).map(float)),
    st.booleans(),
)
def test_integers_are_compared_with_any_number_as_python_does(
    tmp_path_factory, how, number, as_text
):
    integers = [LIMITS.min, -5, -1, 0, 1, 2, 5, LIMITS.max]
    path = tmp_path_factory.getbasetemp() / "integers.parquet"
    table = pa.table(
        {"x": np.arange(9, dtype=np.float32), "n": pa.array([*integers, None], pa.int8())}
    )
    pq.write_table(table, path)
    met = {
        "=": lambda n: n == number,
        "!=": lambda n: n != number,
        "<": lambda n: n < number,
        "<=": lambda n: n <= number,
        ">": lambda n: n > number,
        ">=": lambda n: n >= number,
        "in": lambda n: n in (number, 1),
        "not in": lambda n: n not in (number, 1),
    }[how]
    expected_ = [i for i, n in enumerate(integers) if met(n)] + [8] * (how == "not in")
    value = str(number) if as_text else number
    terms = [("n", how, [value, 1] if how.endswith("in") else value)]
    if not expected_:
        with pytest.raises(Invalid, match="at least one row, got none"):
            Dataset.from_parquet(str(path), ["x"], filters=terms)
        return
    dataset = Dataset.from_parquet(str(path), ["x"], filters=terms)
    assert loaded(dataset)[:, 0].tolist() == expected_


@pytest.mark.parametrize(
    ("terms", "met"),
    [
        ([("at", ">", "2024-01-01 00:00:00.000000201")], [2]),
        ([("at", "=", pd.Timestamp("2024-01-01 00:00:00.000000201"))], [1]),
        ([("at", "<=", np.datetime64("2024-01-01T00:00"))], []),
        ([("share", "=", 0.1)], [0]),
        ([("share", "<=", "0.1")], [0]),
        ([("share", "<", 1e300)], [0, 1, 2]),
        ([("share", "in", [0.2, None])], [1]),
        ([("many", "in", [1, None, np.nan])], [0]),
        ([("at", ">=", np.datetime64("2024-01-01"))], [0, 1, 2]),
        ([("many", ">", 1e7)], [1, 2]),
        ([("many", "<", "1e7")], [0]),
        ([("many", "<=", "1e999999999")], [0, 1, 2]),
        ([("many", "in", ["1e999999999", -np.inf, 1])], [0]),
        ([("many", ">", np.inf)], []),
        ([("price", ">", 1)], [1, 2]),
        ([("price", "in", [1, 2])], [0, 1]),
    ],
)
def test_values_are_compared_in_the_type_of_their_column(tmp_path, terms, met):
    table = pa.table(
        {
            "x": np.arange(3, dtype=np.float32),
            "at": pa.array([1704067200 * 10**9 + i for i in (101, 201, 301)], pa.timestamp("ns")),
            "share": pa.array([0.1, 0.2, 0.3], pa.float32()),
            "many": [1, 20_000_000, 2**60],
            "price": pa.array([Decimal("1.00"), Decimal("2.00"), Decimal("3.33")]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    if not met:
        with pytest.raises(Invalid, match="at least one row, got none"):
            Dataset.from_parquet(str(tmp_path / "a.parquet"), ["x"], filters=terms)
        return
    dataset = Dataset.from_parquet(str(tmp_path / "a.parquet"), ["x"], filters=terms)
    assert loaded(dataset)[:, 0].tolist() == met


def test_a_column_of_two_types_in_folders_and_files_is_refused(tmp_path):
    (tmp_path / "day=2024-01-01").mkdir()
    table = pa.table({"x": [1.0], "day": [DAY]})
    pq.write_table(table, tmp_path / "day=2024-01-01" / "a.parquet")
    message = "of one type, got 'day', which is string in the names of folders and date32"
    with pytest.raises(Invalid, match=message):
        Dataset.from_parquet(str(tmp_path), ["x"], filters=[("day", "=", "2024-01-01")])


def test_a_set_of_values_has_one_order():
    assert RowFilter.of([("k", "in", {"b", "c", "a"})]).alternatives[0][0][2] == ("a", "b", "c")


def test_a_filter_with_known_values_is_simplified():
    some = RowFilter.of([[("a", ">", 1), ("b", "<", 2)], [("a", "<", 0)]])
    assert some.columns == ("a", "b")
    assert some.given({"a": pa.scalar(2)}) == RowFilter.of([("b", "<", 2)])
    assert some.given({"a": pa.scalar(-1)}).holds_always
    assert some.given({"a": pa.scalar(1)}).holds_never
