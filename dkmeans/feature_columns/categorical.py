"""Categorical columns: each value becomes the id of a bucket, from 0 on; -1 is no bucket.

`indicator_column` counts the ids. The columns give the buckets that the columns of the same names
in `tf.feature_column` give. Words are compared as bytes, so text is encoded as UTF-8 first.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from dkmeans import storage
from dkmeans.errors import Invalid, InvalidData, InvalidType, check_integer, counted, expected
from dkmeans.feature_columns.named import MISSING, NamedValues, check_key
from dkmeans.state import IndexArray


@dataclass(frozen=True, slots=True)
class IdentityColumn:
    """Result of `categorical_column_with_identity`: integers that are ids of buckets.

    Attributes:
        key: Name of the column to read.
        num_buckets: Number of buckets.
        default_value: Id of values outside the buckets; None if there is none.
    """

    key: str
    num_buckets: int
    default_value: int | None

    def ids(self, values: NamedValues) -> IndexArray:
        """Return the id of each value, (n, w) int64; -1 for a value without a bucket.

        Raises:
            InvalidData: a value is too large and there is no default.
        """
        ids = values.integers()
        outside = (ids != MISSING) & ((ids < 0) | (ids >= self.num_buckets))
        if self.default_value is not None:
            return np.where(outside, self.default_value, ids)
        # TensorFlow refuses only ids that are too large; negative ones have no bucket.
        values.refuse(ids >= self.num_buckets, f"be below num_buckets, {self.num_buckets}")
        return np.maximum(ids, MISSING)


@dataclass(frozen=True, slots=True)
class VocabularyColumn:
    """Result of `categorical_column_with_vocabulary_list` and `_file`: ids are list indices.

    Attributes:
        key: Name of the column to read.
        vocabulary: The list, of integers or of words as bytes.
        is_integer: True if the list is of integers.
        default_value: Id of values that are not in the list; -1 for none.
        num_oov_buckets: Number of buckets for values that are not in the list.
    """

    key: str
    vocabulary: tuple[Any, ...] = field(repr=False)
    is_integer: bool
    default_value: int
    num_oov_buckets: int

    @property
    def num_buckets(self) -> int:
        """Number of buckets."""
        return len(self.vocabulary) + self.num_oov_buckets

    def ids(self, values: NamedValues) -> IndexArray:
        """Return the id of each value, (n, w) int64; -1 for a value without a bucket."""
        return values.ids(self._indices, is_integer=self.is_integer)

    def _indices(self, distinct: Sequence[Any]) -> IndexArray:
        """Return the ids of distinct values."""
        known = _index_by_value(self.vocabulary)
        ids = np.array([known.get(value, MISSING) for value in distinct], np.int64)
        unknown = np.flatnonzero(ids == MISSING).tolist()
        if self.num_oov_buckets:
            others = [_text(distinct[number]) for number in unknown]
            ids[unknown] = len(self.vocabulary) + _buckets(others, self.num_oov_buckets)
        else:
            ids[unknown] = self.default_value
        return ids


# A task brings its own copy of the column, but equal vocabularies share one dict in a worker.
@lru_cache(maxsize=32)
def _index_by_value(vocabulary: tuple[Any, ...]) -> dict[Any, int]:
    return {value: index for index, value in enumerate(vocabulary)}


@dataclass(frozen=True, slots=True)
class HashedColumn:
    """Result of `categorical_column_with_hash_bucket`: ids are fingerprints modulo a number.

    Attributes:
        key: Name of the column to read.
        num_buckets: Number of buckets.
        is_integer: True if the values are integers.
    """

    key: str
    num_buckets: int
    is_integer: bool

    def ids(self, values: NamedValues) -> IndexArray:
        """Return the id of each value, (n, w) int64; -1 for a value without a bucket."""
        return values.ids(self._hashes, is_integer=self.is_integer)

    def _hashes(self, distinct: Sequence[Any]) -> IndexArray:
        """Return the ids of distinct values."""
        return _buckets([_text(value) for value in distinct], self.num_buckets)


# A column that gives each value a bucket, or none.
CategoricalColumn: TypeAlias = IdentityColumn | VocabularyColumn | HashedColumn


def categorical_column_with_identity(
    key: str, num_buckets: int, default_value: int | None = None
) -> IdentityColumn:
    """Return a column of integers that are ids of buckets.

    Args:
        key: Name of the column to read.
        num_buckets: Number of buckets. Ids are in [0, num_buckets).
        default_value: Id of values outside this range. None: larger values are refused, and
            negative values have no bucket. -1 is a missing value and never has a bucket.

    Raises:
        ValueError: `num_buckets` is below 1, or `default_value` is no bucket.
        TypeError: an argument has the wrong type.
    """
    check_key(key)
    check_integer("num_buckets", num_buckets, 1)
    if default_value is not None:
        check_integer("default_value", default_value)
        if not 0 <= default_value < num_buckets:
            must = f"None or in [0, {num_buckets}), a bucket"
            raise Invalid(expected("default_value", must, default_value))
    return IdentityColumn(key, int(num_buckets), default_value)


def categorical_column_with_vocabulary_list(
    key: str,
    vocabulary_list: Sequence[str | bytes | int],
    dtype: DTypeLike | None = None,
    default_value: int = MISSING,
    num_oov_buckets: int = 0,
) -> VocabularyColumn:
    """Return a column of words or integers; the id of a value is its index in a list.

    Args:
        key: Name of the column to read. Empty words, None and the integer -1 are missing values
            and have no bucket.
        vocabulary_list: Words or integers, all different.
        dtype: `str` or an integer dtype; None: the type of the list.
        default_value: Id of values that are not in the list; -1 for none.
        num_oov_buckets: Number of further buckets for values that are not in the list. Such a
            value has a bucket by its fingerprint.

    Raises:
        ValueError: the list is empty or has a value twice, the dtype is not that of the list, or
            both `default_value` and `num_oov_buckets` are given.
        TypeError: an argument has the wrong type.
    """
    check_key(key)
    if isinstance(vocabulary_list, str | bytes) or not hasattr(vocabulary_list, "__len__"):
        raise InvalidType(expected("vocabulary_list", "a list", vocabulary_list))
    words = list(vocabulary_list)
    if not words:
        raise Invalid(expected("vocabulary_list", "not empty", vocabulary_list))
    is_integer = not isinstance(words[0], str | bytes)
    must = "all words or all integers"
    # A bool is an int in Python, but no word and no integer here.
    kind: Any = int | np.integer if is_integer else str | bytes
    if any(not isinstance(word, kind) or isinstance(word, bool) for word in words):
        raise InvalidType(expected("vocabulary_list", must, vocabulary_list))
    if dtype is not None and _is_integer(dtype) != is_integer:
        its = "an integer dtype" if is_integer else "str"
        raise Invalid(expected("dtype", f"{its}, as vocabulary_list has", dtype))
    return _vocabulary(key, words, is_integer, default_value, num_oov_buckets)


def categorical_column_with_vocabulary_file(
    key: str,
    vocabulary_file: str | os.PathLike[str],
    vocabulary_size: int | None = None,
    dtype: DTypeLike = str,
    default_value: int | None = None,
    num_oov_buckets: int = 0,
) -> VocabularyColumn:
    """Return a column of words or integers; the id of a value is its line in a file, from 0 on.

    The file is read once, by this call.

    Args:
        key: Name of the column to read. Empty words, None and the integer -1 are missing values
            and have no bucket.
        vocabulary_file: Path or URL of a text file with one word on each line.
        vocabulary_size: Number of lines to use, from the first on; None: all.
        dtype: `str` or an integer dtype.
        default_value: Id of values that are not in the file; None or -1 for none.
        num_oov_buckets: Number of further buckets for values that are not in the file. Such a
            value has a bucket by its fingerprint.

    Raises:
        ValueError: the file does not exist, is empty, has fewer than `vocabulary_size` lines or
            has a value twice, or both `default_value` and `num_oov_buckets` are given.
        TypeError: an argument has the wrong type.
    """
    check_key(key)
    if vocabulary_size is not None:
        check_integer("vocabulary_size", vocabulary_size, 1)
    lines = _lines(vocabulary_file)
    if not lines or len(lines) < (vocabulary_size or 0):
        must = f"have at least {counted(vocabulary_size or 1, 'line')}"
        raise Invalid(f"vocabulary_file {vocabulary_file} must {must}, got {len(lines)}")
    words: list[Any] = lines[:vocabulary_size]
    is_integer = _is_integer(dtype)
    if is_integer:
        try:
            words = [int(word) for word in words]
        except ValueError as error:
            must = "have integers on its lines, as dtype says"
            raise Invalid(f"vocabulary_file {vocabulary_file} must {must}: {error}") from error
    default = MISSING if default_value is None else default_value
    return _vocabulary(key, words, is_integer, default, num_oov_buckets, "vocabulary_file")


def categorical_column_with_hash_bucket(
    key: str, hash_bucket_size: int, dtype: DTypeLike = str
) -> HashedColumn:
    """Return a column of words or integers; the id of a value depends on its fingerprint.

    The id is FarmHash's Fingerprint64 of the bytes, modulo the number of buckets. Integers are
    written as decimal text first. The extra `columns` must be installed.

    Args:
        key: Name of the column to read. Empty words, None and the integer -1 are missing values
            and have no bucket.
        hash_bucket_size: Number of buckets.
        dtype: `str` or an integer dtype.

    Raises:
        ValueError: `hash_bucket_size` is below 1.
        TypeError: an argument has the wrong type.
        ImportError: the extra is not installed.
    """
    check_key(key)
    check_integer("hash_bucket_size", hash_bucket_size, 1)
    _fingerprint()  # a missing extra is an error here, not later on a worker
    return HashedColumn(key, int(hash_bucket_size), _is_integer(dtype))


def _vocabulary(
    key: str,
    words: list[Any],
    is_integer: bool,
    default_value: int,
    num_oov_buckets: int,
    name: str = "vocabulary_list",
) -> VocabularyColumn:
    """Return a vocabulary column, after checks of its arguments; `name` is for messages."""
    check_integer("default_value", default_value)
    check_integer("num_oov_buckets", num_oov_buckets, 0)
    if num_oov_buckets and default_value != MISSING:
        raise Invalid(
            "default_value and num_oov_buckets must not both be given, got "
            f"{default_value} and {num_oov_buckets}"
        )
    if not MISSING <= default_value < len(words):
        must = f"-1 or a place in {name}, below {len(words)}"
        raise Invalid(expected("default_value", must, default_value))
    vocabulary = tuple(int(word) if is_integer else _text(word) for word in words)
    if len(set(vocabulary)) < len(vocabulary):
        twice = next(word for word, times in Counter(vocabulary).items() if times > 1)
        raise Invalid(f"{name} must name nothing twice, got {twice!r} again")
    if num_oov_buckets:
        _fingerprint()  # a missing extra is an error here, not later on a worker
    return VocabularyColumn(key, vocabulary, is_integer, default_value, int(num_oov_buckets))


def _lines(address: str | os.PathLike[str]) -> list[bytes]:
    """Return the lines of a text file, without line ends.

    Raises:
        InvalidType: the address is not a path.
        InvalidData: there is no such file.
    """
    if not isinstance(address, str | os.PathLike):
        raise InvalidType(expected("vocabulary_file", "a path or a URL", address))
    try:
        file = storage.read(os.fspath(address))
    except OSError as error:
        raise InvalidData(f"vocabulary_file must be a file, got {address}: {error}") from error
    if file is None:
        raise InvalidData(f"vocabulary_file must be a file, got {address}: nothing is there")
    # A line end after the last word begins no further, empty line.
    lines = file.data.removesuffix(b"\n").split(b"\n") if file.data else []
    return [line.removesuffix(b"\r") for line in lines]


def _is_integer(dtype: DTypeLike) -> bool:
    """Return whether a dtype is of integers rather than of words.

    Raises:
        InvalidType: the dtype is of neither.
    """
    try:
        kind = np.dtype(dtype).kind
    except TypeError as error:
        raise InvalidType(expected("dtype", "str or an integer dtype", dtype)) from error
    # Integers (iu), and words: str (U), bytes (S), objects (O), NumPy's strings of any length (T).
    if kind not in "iuUSOT":
        raise InvalidType(expected("dtype", "str or an integer dtype", dtype))
    return kind in "iu"


def _text(value: str | bytes | int) -> bytes:
    """Return a word, or an integer in decimal, as bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


def _buckets(words: Sequence[bytes], number: int) -> IndexArray:
    """Return the bucket of each word by its fingerprint, from 0 to `number` - 1, (n,) int64."""
    fingerprint = _fingerprint()
    return np.array([fingerprint(word) % number for word in words], np.int64)


def _fingerprint() -> Any:
    """Return FarmHash's function Fingerprint64.

    Raises:
        ImportError: the extra `columns` is not installed.
    """
    try:
        from farmhash import fingerprint64  # noqa: PLC0415 an extra
    except ImportError as error:
        raise ImportError(
            "buckets by fingerprint need the extra `columns`: pip install 'dkmeans[columns]'"
        ) from error
    return fingerprint64
