"""Categorical columns: values as ids below a number of buckets. -1 is no bucket.

What is documented of those of the same names in `tf.feature_column` holds here, and the buckets
are the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from dkmeans import storage
from dkmeans.errors import Invalid, InvalidData, InvalidType, check_integer, expected
from dkmeans.feature_columns.named import MISSING, Named, check_key
from dkmeans.state import IndexArray


class CategoricalColumn(Protocol):
    """What gives every value a bucket, or none."""

    @property
    def key(self) -> str:
        """The column that it reads."""
        ...

    @property
    def num_buckets(self) -> int:
        """How many buckets there are."""
        ...

    def ids(self, values: Named) -> IndexArray:
        """The bucket of each value, (n, w) int64; -1 where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class IdentityColumn:
    """Integers that are buckets themselves. See `categorical_column_with_identity`."""

    key: str
    num_buckets: int
    default_value: int | None

    def ids(self, values: Named) -> IndexArray:
        """See `CategoricalColumn`."""
        ids = values.integers()
        outside = (ids != MISSING) & ((ids < 0) | (ids >= self.num_buckets))
        if self.default_value is not None:
            return np.where(outside, self.default_value, ids)
        values.refuse(ids >= self.num_buckets, f"be below num_buckets, {self.num_buckets}")
        return np.maximum(ids, MISSING)


@dataclass(frozen=True, slots=True)
class VocabularyColumn:
    """Words or integers by their place in a list. See `categorical_column_with_vocabulary_list`.

    Attributes:
        vocabulary: The list; words as bytes.
        is_integer: Whether it is of integers.
    """

    key: str
    vocabulary: tuple[Any, ...] = field(repr=False)
    is_integer: bool
    default_value: int
    num_oov_buckets: int

    @property
    def num_buckets(self) -> int:
        """See `CategoricalColumn`."""
        return len(self.vocabulary) + self.num_oov_buckets

    def ids(self, values: Named) -> IndexArray:
        """See `CategoricalColumn`."""
        return values.ids(self._places, is_integer=self.is_integer)

    def _places(self, distinct: Sequence[Any]) -> IndexArray:
        known = _places_in(self.vocabulary)
        places = np.array([known.get(value, MISSING) for value in distinct], np.int64)
        unknown = np.flatnonzero(places == MISSING).tolist()
        if self.num_oov_buckets:
            others = [_text(distinct[number]) for number in unknown]
            places[unknown] = len(self.vocabulary) + _buckets(others, self.num_oov_buckets)
        else:
            places[unknown] = self.default_value
        return places


@lru_cache(maxsize=32)
def _places_in(vocabulary: tuple[Any, ...]) -> dict[Any, int]:
    return {value: place for place, value in enumerate(vocabulary)}


@dataclass(frozen=True, slots=True)
class HashedColumn:
    """Words or integers by their fingerprint. See `categorical_column_with_hash_bucket`."""

    key: str
    num_buckets: int
    is_integer: bool

    def ids(self, values: Named) -> IndexArray:
        """See `CategoricalColumn`."""
        return values.ids(self._hashes, is_integer=self.is_integer)

    def _hashes(self, distinct: Sequence[Any]) -> IndexArray:
        return _buckets([_text(value) for value in distinct], self.num_buckets)


def categorical_column_with_identity(
    key: str, num_buckets: int, default_value: int | None = None
) -> IdentityColumn:
    """Integers that are buckets themselves.

    Args:
        key: The column to read.
        num_buckets: Values are in [0, num_buckets).
        default_value: The bucket of values outside; None: those above are refused, and negative
            ones have no bucket. -1 is a missing value, and has none in any case.

    Raises:
        ValueError: `num_buckets` is below 1, or `default_value` is no bucket; TypeError: an
            argument is not of the type it must be.
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
    """Words or integers, each in the bucket of its place in a list.

    Args:
        key: The column to read. Empty words, None and the integer -1 are missing values: they have
            no bucket.
        vocabulary_list: Words, or integers, all different.
        dtype: `str` or an integer dtype; None: that of the list.
        default_value: The bucket of values that are not in the list; -1: none.
        num_oov_buckets: Buckets after those of the list, by fingerprint, for values that are not
            in it.

    Raises:
        ValueError: the list is empty or names something twice, the dtype is not the list's, or
            both `default_value` and `num_oov_buckets` are given; TypeError: an argument is not of
            the type it must be.
    """
    check_key(key)
    if isinstance(vocabulary_list, str | bytes) or not hasattr(vocabulary_list, "__len__"):
        raise InvalidType(expected("vocabulary_list", "a list", vocabulary_list))
    words = list(vocabulary_list)
    if not words:
        raise Invalid(expected("vocabulary_list", "not empty", vocabulary_list))
    is_integer = not isinstance(words[0], str | bytes)
    must = "all words or all integers"
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
    """Words or integers, each in the bucket of its line in a file. It is read here, once.

    Args:
        key: The column to read.
        vocabulary_file: Path or URL of a text file with a word on each line.
        vocabulary_size: How many of its lines to take; None: all.
        dtype: `str` or an integer dtype.
        default_value: As in `categorical_column_with_vocabulary_list`; None is -1.
        num_oov_buckets: As there.

    Raises:
        ValueError: the file is not there, is empty, has fewer lines than asked for or names
            something twice, or the arguments do not agree; TypeError: an argument is not of the
            type it must be.
    """
    check_key(key)
    if vocabulary_size is not None:
        check_integer("vocabulary_size", vocabulary_size, 1)
    lines = _lines(vocabulary_file)
    if not lines or len(lines) < (vocabulary_size or 0):
        must = f"have at least {vocabulary_size or 1} lines"
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
    """Words, or integers written out, in buckets by their fingerprint.

    The bucket is FarmHash's Fingerprint64 of the bytes, modulo the number of buckets. It takes the
    extra `columns`.

    Args:
        key: The column to read. Empty words, None and the integer -1 are missing values.
        hash_bucket_size: How many buckets.
        dtype: `str` or an integer dtype.

    Raises:
        ValueError: `hash_bucket_size` is below 1; TypeError: an argument is not of the type it
            must be.
        ImportError: the extra is not installed.
    """
    check_key(key)
    check_integer("hash_bucket_size", hash_bucket_size, 1)
    _fingerprint()
    return HashedColumn(key, int(hash_bucket_size), _is_integer(dtype))


def _vocabulary(
    key: str,
    words: list[Any],
    is_integer: bool,
    default_value: int,
    num_oov_buckets: int,
    name: str = "vocabulary_list",
) -> VocabularyColumn:
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
        _fingerprint()
    return VocabularyColumn(key, vocabulary, is_integer, default_value, int(num_oov_buckets))


def _lines(address: str | os.PathLike[str]) -> list[bytes]:
    if not isinstance(address, str | os.PathLike):
        raise InvalidType(expected("vocabulary_file", "a path or a URL", address))
    try:
        file = storage.read(os.fspath(address))
    except OSError as error:
        raise InvalidData(f"vocabulary_file must be a file, got {address}: {error}") from error
    if file is None:
        raise InvalidData(f"vocabulary_file must be a file, got {address}: nothing is there")
    lines = file.data.removesuffix(b"\n").split(b"\n") if file.data else []
    return [line.removesuffix(b"\r") for line in lines]


def _is_integer(dtype: DTypeLike) -> bool:
    try:
        kind = np.dtype(dtype).kind
    except TypeError as error:
        raise InvalidType(expected("dtype", "str or an integer dtype", dtype)) from error
    if kind not in "iuUSOT":
        raise InvalidType(expected("dtype", "str or an integer dtype", dtype))
    return kind in "iu"


def _text(value: str | bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _buckets(words: Sequence[bytes], number: int) -> IndexArray:
    fingerprint = _fingerprint()
    return np.array([fingerprint(word) % number for word in words], np.int64)


def _fingerprint() -> Any:
    try:
        from farmhash import fingerprint64  # noqa: PLC0415 an extra
    except ImportError as error:
        raise ImportError(
            "buckets by fingerprint need the extra `columns`: pip install 'dkmeans[columns]'"
        ) from error
    return fingerprint64
