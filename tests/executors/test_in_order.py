"""Results in the order of submission, with few futures submitted ahead."""

import pytest

from dkmeans.executors.in_order import in_order


class Submissions:
    """Futures, here plain numbers, that record when they are drawn, awaited and cancelled."""

    def __init__(self, count, broken=None):
        self.count, self.broken = count, broken
        self.drawn, self.cancelled = [], []

    def futures(self):
        for number in range(self.count):
            self.drawn.append(number)
            yield number

    def result(self, future):
        if future == self.broken:
            raise ValueError(f"future {future}")
        return 10 * future

    def results(self, threads):
        return in_order(self.futures(), threads, self.result, self.cancelled.extend)


@pytest.mark.parametrize("count", [0, 1, 3, 20])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_submission(count, threads):
    submissions = Submissions(count)
    assert list(submissions.results(threads)) == [10 * number for number in range(count)]
    assert submissions.cancelled == []


def test_nothing_is_submitted_before_the_first_result_is_requested():
    submissions = Submissions(20)
    submissions.results(2)
    assert submissions.drawn == []


def test_two_futures_for_each_thread_are_ahead_of_the_caller():
    submissions = Submissions(50)
    for number, _ in enumerate(submissions.results(3), 1):
        assert len(submissions.drawn) == min(number + 6, 50)


def test_futures_that_are_left_are_cancelled_when_the_caller_stops():
    submissions = Submissions(50)
    results = submissions.results(2)
    next(results)
    results.close()
    assert submissions.cancelled == [1, 2, 3, 4]


def test_futures_that_are_left_are_cancelled_after_an_error():
    submissions = Submissions(50, broken=1)
    with pytest.raises(ValueError, match="future 1"):
        list(submissions.results(1))
    assert submissions.cancelled == [2]
