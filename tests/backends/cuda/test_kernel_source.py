"""The source of the kernels."""

from importlib.resources import files

import pytest

from dkmeans.backends.cuda.compiler import OPTIONS, CompileError, cubin
from dkmeans.backends.cuda.kernel_device import DEFINES
from dkmeans.backends.cuda.kernel_source import kernel_source
from tests.backends.cuda.nvrtc import Nvrtc, library


def test_the_source_has_all_files_of_the_folder():
    folder = files("dkmeans.backends.cuda") / "kernels"
    for file in folder.iterdir():
        assert f'#line 1 "{file.name}"\n{file.read_text()}' in kernel_source()


@pytest.mark.skipif(library() is None, reason="NVRTC is not installed")
def test_an_error_names_the_file_and_the_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    line = (
        kernel_source().split('#line 1 "sums.cu"\n')[1].split("// --- Sums ---")[0].count("\n") + 1
    )
    source = kernel_source().replace("// --- Sums ---", "int wrong = undefined;")
    defines = next(iter(DEFINES.values()))
    with pytest.raises(CompileError, match=rf"sums\.cu\({line}\): error"):
        cubin(source, (*OPTIONS, *defines), "sm_80", Nvrtc(library()))
