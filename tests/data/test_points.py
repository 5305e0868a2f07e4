"""Points: which values are accepted as rows, and in which dtype they are computed."""

import ml_dtypes
import numpy as np
import pytest

from dkmeans import InvalidData, InvalidType
from dkmeans.data.points import as_array, as_dtype, as_points, point_dtype

ROWS = np.random.default_rng(5).normal(size=(20, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_floats_are_not_copied(dtype):
    rows = ROWS.astype(dtype)
    points = as_points(rows, "rows")
    assert points.dtype == dtype
    assert np.shares_memory(points, rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_other_byte_order_becomes_native(dtype):
    points = as_points(ROWS.astype(np.dtype(dtype).newbyteorder("S")), "rows")
    assert points.dtype == np.dtype(dtype)
    assert points.dtype.isnative
    assert np.array_equal(points, ROWS.astype(dtype))


@pytest.mark.parametrize(
    "rows",
    [np.asfortranarray(ROWS), ROWS[::2], ROWS[:, ::-1], ROWS[:, :2]],
    ids=["Fortran", "every other row", "columns reversed", "some columns"],
)
def test_rows_in_any_layout_become_contiguous(rows):
    points = as_points(rows, "rows")
    assert points.flags.c_contiguous
    assert np.array_equal(points, rows)


@pytest.mark.parametrize(
    "dtype", ["f2", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"]
)
def test_other_real_numbers_become_float32(dtype):
    rows = np.arange(12).reshape(4, 3).astype(dtype)
    points = as_points(rows, "rows")
    assert points.dtype == np.float32
    assert points.dtype.isnative
    assert np.array_equal(points, rows)


def test_nested_lists_are_rows():
    assert np.array_equal(as_points([[1, 2], [3, 4]], "rows"), [[1, 2], [3, 4]])


@pytest.mark.parametrize("value", [2**24, -(2**24)])
def test_the_largest_exact_integer_is_accepted(value):
    assert as_points(np.array([[value]]), "rows")[0, 0] == value


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1])
def test_an_integer_that_float32_cannot_represent_is_refused_with_the_remedy(dtype, value):
    with pytest.raises(InvalidData, match=f"ages .*got {value}.*float64"):
        as_points(np.array([[1, value, 0]], dtype), "ages")


def test_the_extremes_of_64_bits_are_refused_by_their_values():
    with pytest.raises(InvalidData, match=f"got {2**64 - 1}"):
        as_points(np.array([[2**64 - 1]], np.uint64), "rows")
    with pytest.raises(InvalidData, match=f"got {-(2**63)}"):
        as_points(np.array([[-(2**63)]], np.int64), "rows")


def test_an_empty_table_of_integers_has_no_rows():
    assert as_points(np.empty((0, 3), np.int64), "rows").shape == (0, 3)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((2, 2), complex),
        np.array([["a", "b"]]),
        np.array([[1, None]], object),
        np.array([["2020-01-01"]], "M8[D]"),
        np.array([[1]], "m8[s]"),
    ],
    ids=["complex", "text", "objects", "dates", "durations"],
)
def test_values_that_are_no_real_numbers_are_a_type_error(values):
    with pytest.raises(InvalidType, match=r"^rows must hold real numbers, got dtype") as caught:
        as_points(values, "rows")
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_other_than_two_dimensions_are_refused_by_their_shape(shape):
    with pytest.raises(InvalidData) as caught:
        as_points(np.zeros(shape), "rows")
    assert str(shape) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_ragged_lists_are_refused():
    with pytest.raises(InvalidData, match="rows must be a table of numbers"):
        as_points([[1, 2], [3]], "rows")


def test_only_float64_and_longdouble_are_computed_in_float64():
    assert point_dtype(np.longdouble) == np.float64
    for dtype in ("f2", "f4", "i8", "?", ">f4"):
        assert point_dtype(dtype) == np.float32
    assert point_dtype(">f8") == np.float64
    assert point_dtype(">f8").isnative


def test_longdouble_becomes_float64():
    rows = ROWS.astype(np.longdouble) + np.longdouble(1e-12)
    points = as_points(rows, "rows")
    assert points.dtype == np.float64
    assert np.array_equal(points, rows.astype(np.float64))


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="longdouble is float64 here"
)
def test_a_longdouble_that_float64_cannot_represent_is_refused_by_its_value():
    rows = np.ones((4, 2), np.longdouble)
    rows[2, 1] = np.longdouble("1e4000")
    with pytest.raises(InvalidData, match=r"^ages must hold numbers that float64 holds.*1e\+4000"):
        as_points(rows, "ages")
    # Infinity is no number that was lost: `Chunk.load` leaves it to those who look for such rows.
    rows[2, 1] = np.inf
    assert as_points(rows, "ages")[2, 1] == np.inf


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_a_number_that_a_dtype_cannot_hold_is_refused_by_its_value(value):
    with pytest.raises(
        InvalidData, match=r"centers must hold numbers that float32 holds.*got -?1e"
    ):
        as_dtype(np.array([[0.0, value]]), np.dtype(np.float32), "centers")


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_small_numbers_of_other_libraries_become_float32_exactly(name):
    values = np.array([[0, 1, -2], [3, 5, -7]]).astype(getattr(ml_dtypes, name))
    points = as_points(values, "rows")
    assert points.dtype == np.float32
    assert points.tolist() == [[0, 1, -2], [3, 5, -7]] == as_array(values, "rows").tolist()


def test_bytes_without_a_meaning_are_no_numbers():
    with pytest.raises(TypeError, match=r"rows must hold real numbers, got dtype \|V2"):
        as_points(np.zeros((2, 2), "V2"), "rows")


@pytest.mark.parametrize("error", [RuntimeError, TypeError, NotImplementedError])
def test_a_tensor_that_refuses_to_become_an_array_is_refused_in_one_line(error):
    class Tensor:
        def __array__(self, *args, **more):
            raise error("can't convert cuda:0 device type tensor to numpy\nuse .cpu() first")

    message = "rows must be an array that NumPy can read, got Tensor: can't convert cuda:0"
    with pytest.raises(InvalidType, match=message) as caught:
        as_array(Tensor(), "rows")
    assert "\n" not in str(caught.value)
