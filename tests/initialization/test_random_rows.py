"""First centers from successive batches: random rows, and what a user's function returns."""

import numpy as np
import pytest

from dkmeans import Dataset
from dkmeans.executors import Serial
from dkmeans.initialization.random_rows import collect
from tests import reference
from tests.initialization.first_centers import first_centers, rows_in, rows_of
from tests.reference import COSINE


def test_centers_are_collected_until_there_are_enough():
    batches = [rows_of(3, seed=1), rows_of(2, seed=2), rows_of(40, seed=3)]
    dataset = iter([next(Dataset.from_array(rows).batches()) for rows in batches])
    centers, seen = collect(dataset, None, 4, None, 0, Serial())
    np.testing.assert_array_equal(centers[:3], batches[0])
    assert len(rows_in(centers[3:], batches[1])) == 1
    assert [batch.rows for batch in seen] == [3, 2]
    assert next(dataset).rows == 40


def test_batches_that_repeat_are_read_until_there_are_enough(caplog):
    rows = rows_of(5)
    warnings = []

    def batches():
        for batch in Dataset.from_array(rows).repeat().batches():
            warnings.append(caplog.text)  # before the rows are read
            yield batch

    centers, seen = collect(batches(), 5, 9, None, 0, Serial())
    assert len(seen) == 2
    assert centers[:5].tolist() == rows.tolist()
    assert sorted(rows_in(centers[5:], rows)) == sorted(set(rows_in(centers[5:], rows)))
    assert "num_clusters is 9, and the input has 5 rows" in warnings[0]


def test_a_function_is_given_further_passes_until_it_has_found_enough(caplog):
    batches = Dataset.from_array(rows_of(5)).repeat().batches()
    calls = []

    def every_third(points, missing):
        calls.append(missing)
        return points[:1] if len(calls) % 3 == 0 else points[:0]

    collect(batches, 5, 3, every_third, 0, Serial())
    assert calls == [3, 3, 3, 2, 2, 2, 1, 1, 1]
    assert caplog.text == ""


# Random rows.


def test_random_centers_are_different_rows():
    rows = rows_of(12)
    for seed in range(20):
        numbers = rows_in(first_centers(6, "random", rows, seed=seed), rows)
        assert len(set(numbers)) == 6


def test_every_row_is_as_likely_to_be_a_random_center():
    rows = np.arange(6, dtype=np.float32)[:, None]
    hits = np.zeros(6)
    for seed in range(60):
        for number in rows_in(first_centers(3, "random", rows, seed=seed), rows):
            hits[number] += 1
    # 30 expected each, with a standard deviation of 3.9.
    assert (np.abs(hits - 30) < 16).all()


def test_as_many_random_centers_as_rows_are_the_rows_in_order():
    rows = rows_of(5)
    np.testing.assert_array_equal(first_centers(5, "random", rows), rows)


def test_small_batches_are_taken_whole_and_the_next_ones_drawn_from():
    batches = [rows_of(3, seed=1), rows_of(2, seed=2), rows_of(40, seed=3)]
    centers = first_centers(9, "random", batches)
    np.testing.assert_array_equal(centers[:5], np.concatenate(batches[:2]))
    assert len(set(rows_in(centers[5:], batches[2]))) == 4


def test_random_centers_are_normalised_for_cosine():
    rows = rows_of(20)
    centers = first_centers(4, "random", rows, COSINE)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-6)
    plain = first_centers(4, "random", rows)
    np.testing.assert_allclose(centers, reference.units(plain), rtol=1e-6)


def test_too_few_rows_for_random_centers_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 9 .*\b5 rows"):
        first_centers(9, "random", [rows_of(3), rows_of(2)])


# A function.


def test_a_function_is_called_batch_after_batch_with_the_number_that_is_missing():
    batches = [rows_of(4, seed=seed) for seed in range(4)]
    calls = []

    def some(inputs, missing):
        calls.append((np.array(inputs), missing))
        return inputs[: (2, 0, 3)[len(calls) - 1]]

    centers = first_centers(5, some, batches)
    assert [missing for _, missing in calls] == [5, 3, 3]
    assert all(type(missing) is int for _, missing in calls)
    for (inputs, _), rows in zip(calls, batches, strict=False):
        np.testing.assert_array_equal(inputs, rows)
    np.testing.assert_array_equal(centers, np.concatenate([batches[0][:2], batches[2][:3]]))


def test_a_function_may_return_lists_and_centers_that_are_no_rows():
    centers = first_centers(2, lambda inputs, missing: [[1, 2], [3, 4]], rows_of(5))
    assert centers.tolist() == [[1, 2], [3, 4]]


def test_a_function_sees_raw_rows_and_its_centers_are_normalised_for_cosine():
    rows, seen = rows_of(9) * 5, []

    def first_rows(inputs, missing):
        seen.append(np.array(inputs))
        return inputs[:missing]

    centers = first_centers(3, first_rows, rows, COSINE)
    np.testing.assert_array_equal(seen[0], rows)
    np.testing.assert_allclose(centers, reference.units(rows[:3]), rtol=1e-6)


def test_a_function_that_returns_too_many_rows_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"initial_clusters.*0 to 3 .*got 4 rows"):
        first_centers(3, lambda inputs, missing: inputs[:4], rows_of(9))


def test_a_function_that_returns_another_width_is_refused():
    with pytest.raises(ValueError, match=r"initial_clusters.*2 columns.*\(3, 1\)"):
        first_centers(3, lambda inputs, missing: inputs[:3, :1], rows_of(9))


def test_a_function_that_returns_values_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"initial_clusters.*finite"):
        first_centers(3, lambda inputs, missing: inputs[:3] * np.nan, rows_of(9))


def test_a_function_that_finds_too_few_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 3 .*8 rows gave 2"):
        first_centers(3, lambda inputs, missing: inputs[:1], [rows_of(4), rows_of(4)])


@pytest.mark.timeout(20)
def test_a_function_that_never_finds_enough_in_a_bare_array_is_refused():
    with pytest.raises(ValueError, match=r"num_clusters = 3 .* the input's 4 rows gave 0"):
        first_centers(3, lambda inputs, missing: inputs[:0], rows_of(4))
