"""Feature columns: rows for clustering made of named columns of numbers and words.

The functions here have the names, arguments and results of those in `tf.feature_column`. They are
passed to `KMeans(feature_columns=[...])`; `input_fn` calls `layout`, which makes the rows on the
workers. A dense column makes some numbers of each row, and a categorical column gives ids that a
dense column counts.
"""

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
