"""Compiles the kernels with NVRTC, and caches the results on disk.

`device` calls `cubin`. CuPy's `RawModule` cannot compile the kernels: it appends `-ftz=true`, which
makes subnormal numbers zero, and it compiles for sm_90 instead of sm_90a, which alone has the
instructions of the H100's tensor cores. Only the binding to NVRTC is CuPy's, and the caller passes
it, so this module runs without CuPy and without a GPU.

    code = cubin(source, OPTIONS, "sm_90a", cupy.cuda.nvrtc)
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger("dkmeans")

# Options for the kernels, beside those for the dtype of the rows.
OPTIONS = (
    "-std=c++17",
    # Contracted products would change the bits of exact distances (docs/decisions/014).
    "--fmad=false",
    # Lambda expressions cannot be marked as code for the device.
    "--device-as-default-execution-space",
)
# Lines of the compiler's log that an error quotes.
_LOG_LINES = 8
# Each cached file begins with the SHA-256 digest of the rest: a damaged file is compiled again.
_DIGEST_BYTES = hashlib.sha256().digest_size


class CompileError(RuntimeError):
    """The compiler refused a source or an option."""


def cubin(source: str, options: tuple[str, ...], architecture: str, nvrtc: Any) -> bytes:
    """Return compiled kernels, from the cache on disk if they are there.

    Args:
        source: CUDA C++.
        options: All options of the compiler except the architecture.
        architecture: Name of a GPU architecture, such as sm_90a.
        nvrtc: CuPy's binding to NVRTC, `cupy.cuda.nvrtc`.

    Raises:
        CompileError: the compiler refused the source or an option.
    """
    key = repr((source, options, architecture, nvrtc.getVersion()))
    name = f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    code = _read(name)
    if code is None:
        code = _compile(source, (*options, f"--gpu-architecture={architecture}"), nvrtc)
        _write(name, code)
    return code


def _compile(source: str, options: tuple[str, ...], nvrtc: Any) -> bytes:
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        lines = _first_error(nvrtc.getProgramLog(program))
        raise CompileError("\n".join([f"{error} with {' '.join(options)}", *lines])) from error
    finally:
        nvrtc.destroyProgram(program)


def _first_error(log: str) -> list[str]:
    """Return the lines of a log from its first error on; warnings may stand before it."""
    lines = log.splitlines()
    start = next((number for number, line in enumerate(lines) if "error" in line), 0)
    return lines[start : start + _LOG_LINES]


def _folder() -> Path:
    """Return the folder of the cache, inside CuPy's: where CuPy can write, the library can."""
    cupys = os.environ.get("CUPY_CACHE_DIR")
    return (Path(cupys) if cupys else Path.home() / ".cupy" / "kernel_cache") / "dkmeans"


def _read(name: str) -> bytes | None:
    """Return cached kernels; None if they are not cached or the file is damaged."""
    try:
        content = (_folder() / name).read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(name: str, code: bytes) -> None:
    """Cache compiled kernels; if the folder cannot be written, only log it."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        # Other processes may read at any time: they see the whole file or none.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(temporary) / name
            path.write_bytes(hashlib.sha256(code).digest() + code)
            path.replace(folder / name)
    except (OSError, RuntimeError) as error:
        logger.debug("compiled kernels are not cached on disk: %s", error)
