"""Categorical columns: TensorFlow's buckets, and the arguments that are refused."""

import numpy as np
import pytest

from dkmeans import Invalid, InvalidType
from dkmeans.feature_columns import (
    categorical_column_with_hash_bucket,
    categorical_column_with_vocabulary_file,
    indicator_column,
)
from tests.feature_columns.example_columns import hashed, identity, rows, vocabulary


def test_rows_of_vocabulary_files_are_tensorflows(recorded, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("cat\nb\nZürich\n", encoding="utf-8")
    features = {"word": recorded["f_word"]}
    column = categorical_column_with_vocabulary_file("word", file)
    assert np.array_equal(rows(features, indicator_column(column)), recorded["rows_file"])
    column = categorical_column_with_vocabulary_file(
        "word", str(file), vocabulary_size=2, num_oov_buckets=2
    )
    assert np.array_equal(rows(features, indicator_column(column)), recorded["rows_file2"])


def test_rows_of_values_outside_a_vocabulary_are_tensorflows(recorded):
    features = {"code": recorded["f_code"], "word": recorded["f_word"]}
    column = vocabulary("code", [11, 5], num_oov_buckets=4)
    assert np.array_equal(rows(features, column), recorded["rows_oovint"])
    assert np.array_equal(rows(features, vocabulary("word", ["b", "a"])), recorded["rows_plain"])


def test_the_fingerprint_is_tensorflows_for_words_of_any_length(recorded):
    column = categorical_column_with_hash_bucket("word", 2**62)
    assert column._hashes(recorded["words"].tolist()).tolist() == recorded["buckets"].tolist()


# Refusals.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: identity("x", 0), "num_buckets must be an integer >= 1, got 0"),
        (
            lambda: identity("x", 3, 3),
            r"default_value must be None or in \[0, 3\), a b",
        ),
        (lambda: vocabulary("x", []), r"vocabulary_list must be not empty, got \[\]"),
        (lambda: vocabulary("x", "ab"), "vocabulary_list must be a list, got 'ab'"),
        (lambda: vocabulary("x", ["a", 1]), "vocabulary_list must be all words or all integers"),
        (lambda: vocabulary("x", ["a", "a"]), "vocabulary_list must name nothing twice, got b'a'"),
        (lambda: vocabulary("x", ["a"], dtype=int), "dtype must be str, as vocabulary_list has"),
        (lambda: vocabulary("x", ["a"], default_value=1), "default_value must be -1 or a place in"),
        (lambda: vocabulary("x", ["a"], num_oov_buckets=-1), "num_oov_buckets must be an integer"),
        (
            lambda: vocabulary("x", ["a"], default_value=0, num_oov_buckets=1),
            "default_value and num_oov_buckets must not both be given, got 0 and 1",
        ),
        (lambda: hashed("x", 0), "hash_bucket_size must be an integer >= 1, got 0"),
        (lambda: hashed("x", 2, dtype=float), "dtype must be str or an integer dtype"),
        (
            lambda: categorical_column_with_vocabulary_file("x", "/nowhere/at/all"),
            "vocabulary_file must be a file, got /nowhere/at/all: nothing is there",
        ),
    ],
)
def test_arguments_of_categorical_columns_are_refused_by_name(make, text):
    with pytest.raises(Invalid, match=text):
        make()


def test_vocabulary_files_must_have_the_lines_that_the_arguments_need(tmp_path):
    (tmp_path / "words").write_text("1\nb\n")
    with pytest.raises(Invalid, match="must have at least 3 lines, got 2"):
        categorical_column_with_vocabulary_file("x", tmp_path / "words", 3)
    with pytest.raises(Invalid, match="must have integers on its lines, as dtype says"):
        categorical_column_with_vocabulary_file("x", tmp_path / "words", dtype=int)
    with pytest.raises(InvalidType, match="vocabulary_file must be a path or a URL, got 3"):
        categorical_column_with_vocabulary_file("x", 3)
