"""The distribution: every package is named, and the wheel holds the code and nothing else.

`make check` builds an sdist and a wheel and names their folder in DKMEANS_DIST.
"""

import os
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import dkmeans

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PATTERNS = PROJECT["tool"]["setuptools"]["package-data"]["dkmeans"]
# The files of each pattern.
DATA = [
    [str(path.relative_to(ROOT)) for path in (ROOT / "dkmeans").glob(pattern)]
    for pattern in PATTERNS
]
# Folders that hold code, and the names that they are installed under.
INSTALLED = {"dkmeans": "dkmeans", "jobs": "dkmeans_jobs"}


def code():
    """Return the installed names of all modules of the working tree."""
    return {
        str(Path(name, path.relative_to(ROOT / folder)))
        for folder, name in INSTALLED.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def test_the_version_has_one_place_and_all_that_name_it_agree():
    assert PROJECT["project"]["dynamic"] == ["version"]
    stated = {
        "CITATION.cff": f"version: {dkmeans.__version__}",
        "deploy/Dockerfile": f"org.opencontainers.image.version={dkmeans.__version__} ",
        "deploy/conda/recipe.yaml": f'version: "{dkmeans.__version__}"',
    }
    assert [name for name, text in stated.items() if text not in (ROOT / name).read_text()] == []


def test_the_conda_package_needs_what_the_wheel_needs():
    recipe = yaml.safe_load((ROOT / "deploy/conda/recipe.yaml").read_text())
    needed = {f"python {PROJECT['project']['requires-python']}"}
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        names = ["dask-core", *sorted(requirement.extras - {"array"})]
        names = names if requirement.name == "dask" else [requirement.name]
        needed |= {f"{name} {requirement.specifier}" for name in names}
    assert {as_pip(each) for each in recipe["requirements"]["run"]} == needed


def as_pip(requirement):
    """Return a requirement of conda as pip prints it."""
    name, _, specifier = requirement.partition(" ")
    return f"{name} {SpecifierSet(specifier)}"


@pytest.fixture
def dist():
    if "DKMEANS_DIST" not in os.environ:
        pytest.skip("make check builds the distribution and runs this test")
    return ROOT / os.environ["DKMEANS_DIST"]


@pytest.fixture
def wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_every_folder_of_code_is_a_package_of_the_wheel():
    folders = {".".join(Path(name).parent.parts) for name in code()}
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_package_data_exists():
    assert all(DATA)


def test_the_wheel_holds_the_code_its_data_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == code().union(*DATA)


@pytest.mark.parametrize("name", PROJECT["project"]["license-files"])
def test_the_wheel_holds_the_licence(wheel, name):
    (stored,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/licenses/{name}"))
    assert wheel.read(stored) == (ROOT / name).read_bytes()


def test_the_sdist_holds_what_its_tests_need(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("benchmarks", "deploy", "docs", "tests")
    needed = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    wanted = {str(path.relative_to(ROOT)) for path in needed if "__pycache__" not in path.parts}
    assert wanted | {"LICENSE", "NOTICE", "Makefile", "README.md", "pyproject.toml"} <= names
