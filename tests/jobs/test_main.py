"""The command as a process: Ctrl-C while it starts."""

import subprocess
import sys

# Sends Ctrl-C when the first module of the library is imported.
_INTERRUPTED = """
import os, signal, sys
from dkmeans_jobs.__main__ import main
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "dkmeans":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.exit(main(["info", "m"]))
"""


def test_ctrl_c_while_the_command_imports_the_library_ends_it_without_a_traceback():
    argv = [sys.executable, "-c", _INTERRUPTED]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "dkmeans: interrupted\n"


def test_the_exit_code_of_the_command_is_that_of_the_process(tmp_path):
    argv = [sys.executable, "-m", "dkmeans_jobs", "info", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Could not find trained model" in done.stderr
