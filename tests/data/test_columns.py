"""Names of columns: those of a model are found in any order, and missing ones are named."""

import pytest

from dkmeans import InvalidData
from dkmeans.data.columns import (
    KnownColumns,
    described,
    names_of_width,
    places_named,
    places_of,
    value_names,
)

TRAINED = KnownColumns(("age", "income"))
PREDICTING = KnownColumns(("age", "income"), allows_surplus=True)


@pytest.mark.parametrize("given", [("age", "income"), ["income", "age"]])
def test_columns_are_found_in_any_order(given):
    assert TRAINED.chosen(given, "rows") == ("age", "income")


def test_columns_without_names_and_those_of_a_new_model_are_taken_as_they_are():
    assert TRAINED.chosen(None, "rows") is None
    assert KnownColumns().chosen(["b", "a"], "rows") is None
    TRAINED.check(None)
    KnownColumns().check(["b", "a"])


@pytest.mark.parametrize("columns", [TRAINED, PREDICTING])
def test_a_missing_column_is_named(columns):
    message = r"columns of rows must be those .* with, \['age', 'income'\], got \['age', 'pay'\]"
    with pytest.raises(InvalidData, match=rf"{message} \(\['income'\] is missing\)"):
        columns.chosen(["age", "pay"], "rows")


def test_a_surplus_column_is_an_error_in_training():
    with pytest.raises(InvalidData, match=r"\(\['id'\] is not among them\)"):
        TRAINED.chosen(["id", "age", "income"], "rows")


def test_surplus_columns_are_logged_once(caplog):
    caplog.set_level("INFO", "dkmeans")
    columns = KnownColumns(("age",), allows_surplus=True)
    for given in (["id", "age"], ["age", "id"], ["age"]):
        assert columns.chosen(given, "rows") == ("age",)
    assert caplog.messages == ["columns of rows that the model does not use: ['id']"]


def test_a_column_of_several_values_is_found_by_its_key():
    columns = KnownColumns(("v[3]", "a"))
    assert columns.chosen(["a", "v"], "rows") == ("v", "a")
    assert columns.chosen(["a", "v[3]"], "rows") == ("v[3]", "a")
    columns.check(["v[3]", "a"])
    with pytest.raises(InvalidData, match=r"'v\[3\]', 'a'\], got \['v\[2\]', 'a'\]"):
        columns.check(["v[2]", "a"])


def test_later_batches_must_have_the_columns_of_the_first():
    assert TRAINED.or_those_of(("x",)) is TRAINED
    assert KnownColumns().or_those_of(None).names is None
    with pytest.raises(InvalidData, match="must be those of the batches before it, "):
        KnownColumns().or_those_of(("x",)).chosen(["y"], "batch 1")


def test_of_very_many_names_the_first_are_shown():
    names = tuple(f"c{number}" for number in range(5000))
    with pytest.raises(InvalidData) as caught:
        KnownColumns(names).chosen(["x"], "rows")
    assert len(str(caught.value)) < 700


def test_places_follow_the_lengths_of_lists():
    given = described(["a", "v", "b"], [1, 3, 1])
    assert given == ("a", "v[3]", "b")
    assert places_of(["b", "v[3]"], given, 5) == [4, 1, 2, 3]
    assert places_of(["b"], ("a[3]", "b"), 2) == [1]


def test_each_value_of_a_row_has_a_name():
    assert value_names(("v[2]", "a"), 3) == ["v[0]", "v[1]", "a"]
    assert value_names(("v[2]", "a"), 2) == ["v[2]", "a"]
    for none in ((), None):
        assert value_names(none, 2) == ["column 0", "column 1"]
    assert value_names(("a[2]", "v[3]"), 4) == value_names(None, 4)  # `a[2]` is one value here
    assert places_named(("v[2]", "a"), 3) == ["'v[0]'", "'v[1]'", "'a'"]
    assert places_named(None, 2) == ["column 0", "column 1"]
    for names, width in ((("v[2]", "a"), 3), (("v[2]", "a"), 2), (("a", "b"), 2), (None, 2)):
        assert names_of_width(names, width) == names
    assert names_of_width(("a", "b_bucketized"), 4) is None
    assert names_of_width(("a[2]", "v[3]"), 4) == ("a[2]", "v[3]")
    assert places_named(("a[2]", "v[3]"), 4)[3] == "column 3"
