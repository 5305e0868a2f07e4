"""The compiler of the kernels and its cache on disk. The real NVRTC runs where its wheel is.

test_launches.py compiles the kernels themselves.
"""

import logging
import re
from threading import Thread

import pytest

from dkmeans.backends.cuda.compiler import CompileError, cubin
from tests.backends.cuda.nvrtc import Nvrtc, library

needs_nvrtc = pytest.mark.skipif(library() is None, reason="NVRTC is not installed")

MULTIPLY = 'extern "C" __global__ void f(float *a) { a[0] *= a[1]; }'


class FakeNvrtc:
    """A stand-in for CuPy's binding whose machine code names its input."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self, version=(12, 9), log=""):
        self.version, self.log = version, log
        self.compiled, self.alive = [], 0

    def getVersion(self):
        return self.version

    def createProgram(self, source, name, headers, include_names):
        self.alive += 1
        return [source]

    def compileProgram(self, program, options):
        self.compiled.append(options)
        program += options
        if self.log:
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    def getCUBIN(self, program):
        return repr((program, self.version)).encode()

    def getProgramLog(self, program):
        return self.log

    def destroyProgram(self, program):
        self.alive -= 1


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dkmeans"


def test_the_compiler_gets_the_given_options_and_the_architecture_and_no_others():
    nvrtc = FakeNvrtc()
    cubin("source", ("-std=c++17", "-DSINGLE"), "sm_90a", nvrtc)
    assert nvrtc.compiled == [("-std=c++17", "-DSINGLE", "--gpu-architecture=sm_90a")]
    assert nvrtc.alive == 0


def test_the_same_input_is_compiled_once_and_other_input_again():
    code = cubin("source", ("-a",), "sm_80", FakeNvrtc())
    again = FakeNvrtc()
    assert cubin("source", ("-a",), "sm_80", again) == code
    assert again.compiled == []
    others = [
        cubin("source 2", ("-a",), "sm_80", again),
        cubin("source", ("-a", "-b"), "sm_80", again),
        cubin("source", ("-a",), "sm_90a", again),
        cubin("source", ("-a",), "sm_80", FakeNvrtc(version=(13, 0))),
    ]
    assert len({code, *others}) == 5


def test_the_cache_is_in_the_folder_of_cupys(folder, tmp_path, monkeypatch):
    cubin("source", (), "sm_80", FakeNvrtc())
    (file,) = folder.iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.cubin", file.name)
    monkeypatch.delenv("CUPY_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cubin("source", (), "sm_80", FakeNvrtc())
    assert (tmp_path / "home/.cupy/kernel_cache/dkmeans" / file.name).exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b""])
def test_a_damaged_file_is_compiled_again_and_replaced(folder, damage):
    code = cubin("source", (), "sm_80", FakeNvrtc())
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert cubin("source", (), "sm_80", FakeNvrtc()) == code
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(folder, caplog):
    caplog.set_level(logging.DEBUG, "dkmeans")
    folder.parent.write_text("a file where the folder should be")
    code = cubin("source", (), "sm_80", FakeNvrtc())
    assert cubin("source", (), "sm_80", FakeNvrtc()) == code
    assert caplog.messages[0].startswith("compiled kernels are not cached on disk: ")


def test_threads_that_compile_the_same_leave_one_whole_file(folder):
    threads = [Thread(target=cubin, args=("source", (), "sm_80", FakeNvrtc())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(folder.iterdir())) == 1
    again = FakeNvrtc()
    cubin("source", (), "sm_80", again)
    assert again.compiled == []


def test_an_error_has_the_options_and_the_lines_from_the_first_error_on(folder):
    log = ["a warning", *(f"error {number}" for number in range(100))]
    nvrtc = FakeNvrtc(log="\n".join(log))
    with pytest.raises(CompileError) as raised:
        cubin("source", ("-a",), "sm_80", nvrtc)
    lines = str(raised.value).splitlines()
    assert lines[:2] == [
        "NVRTC_ERROR_COMPILATION (6) with -a --gpu-architecture=sm_80",
        "error 0",
    ]
    assert len(lines) < 12
    assert nvrtc.alive == 0
    assert not folder.exists()


@needs_nvrtc
def test_subnormal_numbers_are_kept():
    nvrtc = Nvrtc(library())
    default, kept, flushed = (
        cubin(MULTIPLY, options, "sm_80", nvrtc)
        for options in ((), ("--ftz=false",), ("--ftz=true",))
    )
    # NVRTC writes its options to the machine code as a note. The instructions stand before it.
    assert instructions(default) == instructions(kept)
    assert instructions(default) != instructions(flushed)


@needs_nvrtc
def test_nvrtcs_own_message_says_where_the_source_is_wrong():
    with pytest.raises(CompileError, match=r'kernels.cu\(1\): error: identifier "b" is undefined'):
        cubin("__global__ void f(int *a) { a[0] = b; }", (), "sm_80", Nvrtc(library()))
    with pytest.raises(CompileError, match="invalid value for --gpu-architecture"):
        cubin(MULTIPLY, (), "sm_9999", Nvrtc(library()))


def instructions(code):
    """Return the section `.text.f` of machine code in the ELF format: the kernel `f`."""

    def number(at, size):
        return int.from_bytes(code[at : at + size], "little")

    first, size, count, names = number(40, 8), number(58, 2), number(60, 2), number(62, 2)
    headers = [first + i * size for i in range(count)]
    texts = number(headers[names] + 24, 8)
    for header in headers:
        name = texts + number(header, 4)
        if code[name:].startswith(b".text.f\0"):
            start = number(header + 24, 8)
            return code[start : start + number(header + 32, 8)]
    raise LookupError("no .text.f")
