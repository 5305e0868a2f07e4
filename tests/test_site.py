"""The README and the pages of the site: every block of code runs, or is checked by its validator.

Pages go on from `docs/start/laptop.md`, as their readers do: they find its rows and its model. A
block of another library (`py`) is compiled only.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from inspect import ismodule
from itertools import chain
from pathlib import Path

import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker
from dkmeans_jobs.__main__ import main
from dkmeans_jobs.parser import parse
from markdown_it import MarkdownIt

import dkmeans
from dkmeans import storage
from tests.deploy.manifests import complaints

ROOT = Path(__file__).parents[1]
START = "docs/start/laptop.md"
# Pages whose Python another test runs: with TensorFlow, more assertions, or signals.
ELSEWHERE = {
    "docs/guide/exports.md": "exports/test_exports.py",
    "docs/coming-from/tensorflow.md": "test_porting.py",
    "docs/operations.md": "test_faults.py",
}
# Names of a scheduler and of a bucket in the pages, which stand for those of the tests.
SCHEDULER, BUCKET = "tcp://scheduler:8786", "s3://bucket"
# Folders of the repository whose files commands name.
FOLDERS = ("benchmarks/", "deploy/", "tests/")
# Folders that a page makes.
MADE = ("deploy/k8s/overlays/mine", "deploy/k8s/overlays/my-job")


@dataclass(frozen=True)
class Block:
    """Block of code of a page.

    Attributes:
        page: Path of the page.
        line: Number of its first line.
        language: Language that the page names.
        code: The text.
    """

    page: str
    line: int
    language: str
    code: str

    def replaced(self, places):
        code = self.code
        for name, place in places.items():
            code = code.replace(name, place)
        return code


def blocks_of(page):
    tokens = MarkdownIt().parse((ROOT / page).read_text())
    fences = [token for token in tokens if token.type == "fence" and token.info[:1] != "{"]
    return [Block(page, token.map[0] + 2, token.info, token.content) for token in fences]


def pages():
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return [name for name in names if name != START and blocks_of(name)]


def run_page(page, places):
    """Run the blocks of a page in the current directory, one after another."""
    names = {"__name__": "__main__"}
    for block in blocks_of(page):
        code = block.replaced(places)
        where = f"{page}:{block.line}"
        match block.language:
            case "python" if page in ELSEWHERE:
                compile(code, where, "exec")
            case "python":
                exec(compile("\n" * (block.line - 1) + code, page, "exec"), names)
            case "py":
                compile(code, where, "exec")
            case "console":
                run_commands(code, where)
            case "toml":
                check_settings(code)
            case "yaml":
                check_yaml(code)
            case "text":
                pass
            case other:
                pytest.fail(f"{where}: no test for blocks of {other!r}")


def run_commands(code, where):
    """Run the commands of dkmeans; check those of other programs as far as that is possible."""
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)
    for line in code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        missing = [word for word in arguments if is_missing(word)]
        assert not missing, f"{where}: {missing}"
        if program == "dkmeans" and "local-cuda" in arguments:  # needs a GPU
            parse(arguments)
        elif program == "dkmeans":
            assert exit_code_of(main, arguments) == 0, f"{where}: {line}"
        elif program == "dask":
            parser = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[arguments[0]]
            parser.make_context(arguments[0], arguments[1:])


def is_missing(word):
    """Return whether the word of a command line is a path in the repository that does not exist."""
    is_path = word.startswith(FOLDERS) and word not in MADE
    return is_path and not (ROOT / word.split("::")[0]).exists()


def exit_code_of(function, arguments):
    try:
        return function(arguments)
    except SystemExit as end:  # of `--version`
        return end.code


def check_settings(code):
    """Check the flags of a TOML file, which are those of `train`."""
    Path("job.toml").write_text(code)
    found = vars(parse(["train", "--config", "job.toml"]))
    for name in tomllib.loads(code):
        assert found[name.replace("-", "_")], name


def check_yaml(code):
    """Check a manifest of the operator by its schema."""
    assert complaints(yaml.safe_load(code)) == []


def test_the_tables_of_messages_have_every_warning():
    page = (ROOT / "docs/operations.md").read_text()
    assert [text for text in warnings_of_the_code() if first_words(text) not in page] == []


def warnings_of_the_code():
    """Yield the texts of the warnings that the library and the jobs log."""
    for path in chain((ROOT / "dkmeans").rglob("*.py"), (ROOT / "jobs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logger.warning":
                yield ast.literal_eval(node.args[0])


def first_words(text):
    """Return the first words of a format that stand together, two to four; none of `%s` alone."""
    parts = [part.strip(" .,:;=()").split() for part in re.split(r"%[.\d]*[a-z]", text)]
    return " ".join(next((words[:4] for words in parts if len(words) > 1), ())).rstrip(",:;")


def test_every_public_name_is_on_its_page():
    page = (ROOT / "docs/reference/dkmeans.md").read_text()
    names = [name for name in dkmeans.__all__ if not ismodule(getattr(dkmeans, name))]
    assert [name for name in names if f":: dkmeans.{name}" not in page] == []


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Folder in which the blocks of the first page have run."""
    folder = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(START, {})
    return folder


@pytest.mark.parametrize("page", pages())
def test_the_code_of_the_page_runs(page, started, tmp_path, monkeypatch, request):
    places = {}
    code = "".join(block.code for block in blocks_of(page))
    if BUCKET in code:
        places[BUCKET] = f"{request.getfixturevalue('s3')}/{page}"
        rows = (started / "points.parquet").read_bytes()
        storage.replace(f"{places[BUCKET]}/points.parquet", rows, None)
    if SCHEDULER in code:
        places[SCHEDULER] = request.getfixturevalue("cluster").scheduler_address
    shutil.copytree(started, tmp_path, dirs_exist_ok=True, copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    run_page(page, places)
