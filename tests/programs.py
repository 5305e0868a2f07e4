"""Python programs in processes of their own, for tests of imports and of environment variables."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files_limited_to(size):
    """Return a program's lines that limit its files to so many bytes, as on a full disk.

    Without bytecode: Python would leave files that are cut off, and no later process could import
    from them.
    """
    return f"""
import resource, signal, sys
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def result_in_a_fork(function):
    """Return the result of a function in a forked child of this process, or its error, as text."""
    receiving, sending = os.pipe()
    if os.fork() == 0:
        signal.alarm(60)  # a child that hangs is killed
        try:
            text = str(function())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(sending, text.encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as stream:
        text = stream.read()
    os.wait()
    return text


def output_of(program, *arguments, **environment):
    """Run a program from the root of the repository; return what it prints to both streams."""
    process = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout
