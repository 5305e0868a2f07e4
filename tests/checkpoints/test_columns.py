"""Names of columns: a model is used with the columns only that it was trained with."""

import pytest

from dkmeans import InvalidData
from dkmeans.checkpoints import check_columns, load_columns, save_columns


def test_saved_names_are_loaded(tmp_path):
    model = str(tmp_path)
    assert load_columns(model) is None
    for names in (["age", "größe"], None, ["a"]):
        save_columns(model, names)
        assert load_columns(model) == names


def test_the_same_names_and_unknown_ones_are_accepted(tmp_path):
    model = str(tmp_path)
    check_columns(model, ["age"])
    save_columns(model, ["age", "income"])
    check_columns(model, ("age", "income"))
    check_columns(model, None)
    save_columns(model, None)
    check_columns(model, ["income"])


@pytest.mark.parametrize(
    ("names", "must"),
    [
        (["income", "age"], "in the order in which the model was trained with them, "),
        (["age", "height"], "those that the model was trained with, "),
        (["age"], "those that the model was trained with, "),
    ],
)
def test_other_names_and_another_order_are_refused(names, must, tmp_path):
    save_columns(str(tmp_path), ["age", "income"])
    with pytest.raises(InvalidData) as caught:
        check_columns(str(tmp_path), names)
    assert f"the columns must be {must}['age', 'income'], got {names}" in str(caught.value)
    assert "choose columns" in str(caught.value)


def test_a_damaged_file_is_the_same_as_none(tmp_path):
    (tmp_path / "columns.json").write_text('["age", ')
    check_columns(str(tmp_path), ["income"])


def test_of_very_many_names_the_first_are_shown(tmp_path):
    names = [f"c{number}" for number in range(5000)]
    save_columns(str(tmp_path), names)
    with pytest.raises(InvalidData) as caught:
        check_columns(str(tmp_path), names[::-1])
    assert len(str(caught.value)) < 700
