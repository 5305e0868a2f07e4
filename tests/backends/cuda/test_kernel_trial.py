"""The trial of an implementation: one with other answers than NumPy's is refused."""

import ctypes
import re
import shutil

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.kernel_source import kernel_source
from dkmeans.backends.cuda.kernel_trial import check
from dkmeans.backends.cuda.launches import Launches
from dkmeans.distance import Distance
from dkmeans.exact_total import ExactTotal
from dkmeans.state import PartialSums
from tests.host_device import HostDevice

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


class Wrong:
    """NumPy's answers with one error.

    Args:
        error: Name of the error.
    """

    def __init__(self, error):
        self.error = error

    def partial_sums(self, points, centers):
        return self.assign(points, centers)[0]

    def nearest(self, points, centers):
        return self.assign(points, centers)[1:]

    def assign(self, points, centers):
        sums, index, distances = by_numpy.assign(points, centers)
        if self.error == "index of the last row of many centers" and len(centers.values) > 100:
            index[-1] = (index[-1] + 1) % len(centers.values)
        if self.error == "sums by cosine" and centers.distance is Distance.COSINE:
            place = np.zeros(1, np.int64)
            sums = PartialSums(sums.sums.plus_values(place, place, np.full(1, 1e-6)), sums.counts)
        if self.error == "distances in float64" and points.dtype == np.float64:
            distances = distances.astype(np.float32).astype(np.float64)
        return sums, index, distances

    def squares(self, points):
        squares = by_numpy.squares(points)
        return squares + ExactTotal(1) if self.error == "squares" else squares

    def distances(self, points, centers):
        result = by_numpy.distances(points, centers)
        return result + 1 if self.error == "all distances" else result


def test_an_implementation_with_numpys_answers_passes():
    check(by_numpy)
    check(Wrong("none"))


@pytest.mark.parametrize(
    "error",
    [
        "index of the last row of many centers",
        "sums by cosine",
        "squares",
        "distances in float64",
        "all distances",
    ],
)
def test_an_implementation_with_a_wrong_answer_is_refused(error):
    with pytest.raises(ImportError, match="NumPy"):
        check(Wrong(error))


def test_an_implementation_that_raises_is_refused_with_its_reason():
    class Broken(Wrong):
        def assign(self, points, centers):
            raise RuntimeError("no compiler")

    with pytest.raises(ImportError, match="no compiler"):
        check(Broken("none"))


@needs_compiler
def test_the_kernels_pass_on_the_host(compiled):
    check(Launches(HostDevice(compiled)))


# Faults of a compiler, a GPU or a change of the kernels, as a pattern in their source and what
# replaces it. The fault occurs where FAULT is true: one compilation serves all of them.
# Most of them change the answers to few rows.
FAULTS = {
    "scores without a margin": (r"2\.0f \* SLACK \* error \+ 2\.0f", r"(FAULT ? 0.0f : \g<0>)"),
    "the last of several stages of columns skipped": (
        r"step < stages \* parts;",
        "step < stages * parts - (FAULT && stages > 1);",
    ),
    "the last of several panels of centers skipped": (
        r"panel < panels;",
        "panel < panels - (FAULT && panels > 1);",
    ),
    "subnormal differences flushed to zero": (
        r"two\[([01])\] -= .*;",
        r"\g<0> if (FAULT && fabs(two[\1]) < 1.1754944e-38) two[\1] = 0;",
    ),
    "of equally near centers the last listed": (
        r"atomicMin(\(best \+ .*\));",
        r"FAULT ? atomicExch\1 : atomicMin\1;",
    ),
    "of equally near centers the highest": (
        r"(centers\[i\] < least_center)\)\)",
        r"(FAULT ? centers[i] > least_center && centers[i] < k : \1)))",
    ),
    "few centers without a margin": (
        r"fused\(all\.square, few\.margin_per_square, few\.margin\)",
        r"(FAULT ? 0.0f : \g<0>)",
    ),
    "what two digits of a value leave lost": (r"rest == 0\.0f &&", "(rest == 0.0f || FAULT) &&"),
    "values with more than two digits added as digits": (
        r"largest < DIGIT \* DIGIT",
        r"(FAULT || \g<0>)",
    ),
    "parts in plane -1 lost": (r"if \(low\) (atomicAdd\(.*;)", r"if (low && !(FAULT)) \1"),
    "another row left to the host": (r"1u << number", "1u << (number + (FAULT ? 1 : 0))"),
    "the upper half of a square lost": (r"__umul64hi\(a, b\)", r"(FAULT ? 0 : \g<0>)"),
}


@pytest.fixture(scope="module")
def faulty(compiled):
    """Path of the kernels with all faults, of which the variable `fault` says which one occurs."""
    source = kernel_source()
    for number, (fault, (pattern, replacement)) in enumerate(FAULTS.items()):
        occurs = replacement.replace("FAULT", f"fault == {number}")
        source, count = re.subn(pattern, occurs, source)
        assert count, f"the kernels have changed: {pattern!r} of {fault!r} is not in them"
    path = compiled / "faulty.cu"
    path.write_text(f'extern "C" int fault;\nint fault;\n{source}')
    return path


class FaultyDevice(HostDevice):
    """A host on which one of the faults occurs."""

    def __init__(self, folder, source, fault):
        super().__init__(folder, "-O1", source=source)
        self._fault = list(FAULTS).index(fault)

    def _compile(self, dtype):
        library = super()._compile(dtype)
        ctypes.c_int.in_dll(library, "fault").value = self._fault
        return library


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernels_is_noticed(fault, faulty, compiled):
    with pytest.raises(ImportError, match="give other answers than NumPy"):
        check(Launches(FaultyDevice(compiled, faulty, fault)))
