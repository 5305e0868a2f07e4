"""The compiler NVRTC of the installed wheel, with the functions of CuPy's binding to it."""

import ctypes
import importlib.util
from pathlib import Path


def library():
    """Return the NVRTC library of the installed wheel; None if there is none."""
    package = importlib.util.find_spec("nvidia")
    folders = map(Path, package.submodule_search_locations) if package else ()
    libraries = [each for folder in folders for each in folder.glob("*/lib/libnvrtc.so.1?")]
    return ctypes.CDLL(str(libraries[0])) if libraries else None


class Nvrtc:
    """A stand-in for `cupy.cuda.nvrtc` that needs no CuPy.

    Args:
        nvrtc: The library.

    Attributes:
        logs: The compiler's log of each compilation.
    """

    class NVRTCError(RuntimeError):
        """A function of NVRTC returned an error code."""

    def __init__(self, nvrtc):
        self.logs = []
        self._nvrtc = nvrtc

    def getVersion(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def createProgram(self, source, name, headers, include_names):
        program = ctypes.c_void_p()
        encoded = source.encode(), name.encode(), len(headers), None, None
        self._call("nvrtcCreateProgram", ctypes.byref(program), *encoded)
        return program

    def compileProgram(self, program, options):
        encoded = (ctypes.c_char_p * len(options))(*map(str.encode, options))
        try:
            self._call("nvrtcCompileProgram", program, len(options), encoded)
        finally:
            self.logs.append(self.getProgramLog(program))

    def getCUBIN(self, program):
        return self._text(program, "CUBIN")

    def getProgramLog(self, program):
        return self._text(program, "ProgramLog").rstrip(b"\0").decode()

    def destroyProgram(self, program):
        self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _text(self, program, name):
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{name}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{name}", program, text)
        return text.raw

    def _call(self, name, *arguments):
        if code := getattr(self._nvrtc, name)(*arguments):
            raise self.NVRTCError(f"NVRTC error {code}")
