"""The source of the CUDA kernels, as one text."""

from __future__ import annotations

from importlib.resources import files

# The files of the folder `kernels`, in the order of their compilation: a file uses those before it.
_FILES = (
    "instructions.cu",
    "distances.cu",
    "narrow.cu",
    "nearest.cu",
    "sums.cu",
    "few_singles.cu",
    "few_doubles.cu",
)


def kernel_source() -> str:
    """Return the source of all kernels. Errors of a compiler name the file and its line."""
    folder = files("dkmeans.backends.cuda") / "kernels"
    return "".join(f'#line 1 "{name}"\n{(folder / name).read_text()}' for name in _FILES)
