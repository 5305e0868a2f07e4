"""The shape of the project: tests mirror modules, names are unique, Dask's internals stay in one.

`dkmeans/data/chunks.py` is tested by `tests/data/test_chunks.py`, `jobs/plan.py` by
`tests/jobs/test_plan.py`, and a package's `__init__.py` that has code by a test of the package's
name, such as `tests/executors/test_executors.py`. A module of protocols has no code to test.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
MODULES = sorted(path for name in ("dkmeans", "jobs") for path in (ROOT / name).rglob("*.py"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

# Modules that share a file name, with the reason.
SAME_FILE_NAME = {
    "backend.py": "siblings behind one protocol: each fast backend's functions",
}
# Top-level classes that share a name, with the reason.
SAME_CLASS_NAME = {
    "KMeans": "the estimators of TensorFlow and of scikit-learn",
}

INTERNALS = "dkmeans/executors/dask/internals.py"
# Attributes of Dask and of Python that are not documented.
UNDOCUMENTED = re.compile(
    r"recent_message_log|\.executors\[|_current_frames|stream_comms|memory_manager|thread_state|"
    r"_instances|_loop_runner|_set_as_default"
)


def definitions_of(path):
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, DEFINITIONS)]


def is_protocol(node):
    return isinstance(node, ast.ClassDef) and any(
        isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
    )


def mirror_of(path):
    """Return the test file that mirrors a module; None for a module without code."""
    folder = path.relative_to(ROOT).parent
    folder = folder.relative_to("dkmeans") if folder.parts[0] == "dkmeans" else folder
    name = path.stem.strip("_")
    definitions = definitions_of(path)
    if path.name == "__init__.py":
        if not definitions:
            return None
        name = path.parent.name
    if definitions and all(map(is_protocol, definitions)):
        return None
    return TESTS / folder / f"test_{name}.py"


def has_tests(path):
    pattern = r"^( {4})?def test_|^class Test"
    return path.exists() and re.search(pattern, path.read_text(), re.MULTILINE)


def test_every_module_has_its_test_file():
    mirrors = {path.relative_to(ROOT).as_posix(): mirror_of(path) for path in MODULES}
    missing = {
        module: mirror.relative_to(ROOT).as_posix()
        for module, mirror in mirrors.items()
        if mirror and not has_tests(mirror)
    }
    assert not missing, "modules must be tested by the files named here"


def test_no_two_modules_share_a_file_name():
    found = defaultdict(list)
    for path in MODULES:
        if not path.name.startswith("__"):
            found[path.name].append(path.relative_to(ROOT).as_posix())
    shared = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert set(shared) == set(SAME_FILE_NAME), shared


def test_no_two_classes_share_a_name():
    found = defaultdict(list)
    for path in MODULES:
        for node in definitions_of(path):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    shared = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert set(shared) == set(SAME_CLASS_NAME), shared


def test_only_one_module_mentions_the_internals_of_dask():
    mentions = {
        path.relative_to(ROOT).as_posix(): sorted(set(UNDOCUMENTED.findall(path.read_text())))
        for path in MODULES
        if UNDOCUMENTED.search(path.read_text())
    }
    assert set(mentions) == {INTERNALS}, mentions
