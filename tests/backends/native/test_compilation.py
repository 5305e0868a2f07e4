"""Compiled functions: omitted branches, and the validity of cached machine code."""

import ast
import hashlib
import importlib
from importlib.resources import files

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native.compilation import compiled, inlined

NATIVE = "dkmeans.backends.native"
FOLDER = files(NATIVE)
SOURCES = {
    file.name.removesuffix(".py"): file.read_text()
    for file in FOLDER.iterdir()
    if file.name.endswith(".py")
}


def imported(name):
    """Return the modules of this folder that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[name])):
        if isinstance(node, ast.ImportFrom) and node.module == NATIVE:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(f"{NATIVE}."):
            found.add(node.module.removeprefix(f"{NATIVE}."))
    return found


def parts(name):
    """Return the modules that a module imports, directly or indirectly."""
    found, left = set(), [name]
    while left:
        new = imported(left.pop()) - found
        found |= new
        left += new
    return sorted(found - {name})


def code_of(name):
    """Return a module's source without the hash in it, which depends on other modules."""
    lines = SOURCES[name].splitlines()
    return "\n".join(line for line in lines if not line.startswith("INTRINSICS = "))


def constants(names):
    """Return the constants of other folders that modules import, with their values."""
    found = set()
    for node in (node for name in names for node in ast.walk(ast.parse(SOURCES[name]))):
        is_import = isinstance(node, ast.ImportFrom) and node.module.startswith("dkmeans.")
        if is_import and not node.module.startswith(NATIVE):
            values = vars(importlib.import_module(node.module))
            used = [alias.name for alias in node.names if alias.name.isupper()]
            found |= {f"{node.module}.{each} = {values[each]!r}" for each in used}
    return sorted(found)


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if "\n@kernel\n" in SOURCES[name]))
def test_the_cached_code_becomes_invalid_when_its_parts_change(name):
    code = "\n".join([*map(code_of, parts(name)), *constants([name, *parts(name)])])
    expected = hashlib.sha256(code.encode()).hexdigest()[:12]
    assert expected == importlib.import_module(f"{NATIVE}.{name}").INTRINSICS


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
