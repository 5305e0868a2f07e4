"""Python programs in processes of their own, for tests of imports and of environment variables."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
