"""Compiled functions: omitted branches, and the validity of cached machine code."""

import ast
import importlib.util
from importlib.resources import files

import numpy as np
from numba import config, njit

from dkmeans.backends.native import compilation
from dkmeans.backends.native.compilation import compiled, inlined

FOLDER = files("dkmeans.backends.native")
SOURCES = [file.read_text() for file in FOLDER.iterdir() if file.name.endswith(".py")]


def outside_constants():
    """Return the modules outside of the folder from which its modules import constants."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dkmeans."):
                is_outside = not node.module.startswith("dkmeans.backends.native")
                if is_outside and any(alias.name.isupper() for alias in node.names):
                    found.add(node.module.removeprefix("dkmeans."))
    return sorted(found)


def test_the_hash_includes_all_modules_whose_constants_are_compiled_in():
    assert outside_constants() == sorted(compilation.CONSTANTS)


def test_machine_code_from_other_sources_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", "")  # cache beside the source
    file = tmp_path / "squares.py"
    file.write_text(
        "from dkmeans.backends.native.compilation import kernel\n\n\n"
        "@kernel\ndef square(number):\n    return number * number\n"
    )

    def hits(sources):
        monkeypatch.setattr(compilation, "sources_hash", lambda: sources)
        spec = importlib.util.spec_from_file_location("squares", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.square(3) == 9
        return sum(module.square.stats.cache_hits.values())

    assert hits("old") == 0
    assert hits("old") == 1
    # Classes of the old code may be gone: opening the file could fail.
    (index,) = (tmp_path / "__pycache__").glob("*.nbi")
    index.write_bytes(b"no pickle")
    assert hits("new") == 0


@inlined
def root(values):
    return np.sqrt(values[0])


@njit
def root_or_zero(values, is_wanted):
    if len(is_wanted):
        return root(values)
    return 0.0


@compiled
def same(value):
    return value


@njit
def same_of_one(value):
    return same(value) + same(np.int64(1))


def test_a_branch_for_an_argument_that_is_empty_is_not_compiled():
    # With None for an array, the call of `root` could not be compiled.
    assert root_or_zero(None, ()) == 0
    assert root_or_zero(np.array([4.0]), (None,)) == 2


@njit
def same_of_literal(value):
    return same(value) + same(1)


def test_a_function_is_compiled_again_for_a_literal_but_not_for_a_numpy_integer():
    assert same_of_one(3) == 4
    assert len(same.signatures) == 1
    assert same_of_literal(3) == 4
    assert len(same.signatures) == 2
