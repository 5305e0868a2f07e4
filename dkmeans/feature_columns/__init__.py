"""Feature columns: how named columns of numbers and words become the rows that are clustered."""

from dkmeans.feature_columns.categorical import (
    categorical_column_with_hash_bucket,
    categorical_column_with_identity,
    categorical_column_with_vocabulary_file,
    categorical_column_with_vocabulary_list,
)
from dkmeans.feature_columns.dense import bucketized_column, indicator_column, numeric_column

__all__ = [
    "bucketized_column",
    "categorical_column_with_hash_bucket",
    "categorical_column_with_identity",
    "categorical_column_with_vocabulary_file",
    "categorical_column_with_vocabulary_list",
    "indicator_column",
    "numeric_column",
]
