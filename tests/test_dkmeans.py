"""The public names: imported at their first use, and known before it."""

import sys

import pytest

import dkmeans
from tests.programs import output_of


def test_importing_dkmeans_imports_nothing_that_takes_time():
    program = "import sys; before = set(sys.modules); import dkmeans; "
    program += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    assert set(output_of(program).split()) <= {"dkmeans", *sys.stdlib_module_names}


def test_using_dkmeans_imports_no_library_of_notebooks():
    # pandas is not among them: pyarrow.dataset imports it where it is installed.
    heavy = {"sklearn", "polars", "matplotlib", "IPython", "numba"}
    program = f"import dkmeans, sys; dkmeans.KMeans; print(sorted({heavy} & set(sys.modules)))"
    assert output_of(program).strip() == "[]"


def test_every_public_name_is_there_and_listed():
    program = "import dkmeans; assert set(dkmeans.__all__) <= set(dir(dkmeans)); "
    program += "print(*(getattr(dkmeans, name).__name__ for name in dkmeans.__all__))"
    names = output_of(program).split()
    assert [name.rpartition(".")[2] for name in names] == dkmeans.__all__


def test_another_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'dkmeans' has no attribute 'KMean'"):
        dkmeans.KMean  # noqa: B018
