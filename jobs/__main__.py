"""The `dkmeans` command: parse the command line, run one job, return an exit code.

Each exception of a job becomes one exit code and one line of the log. Only an exception that no
user could have caused is logged with a traceback. docs/operations.md lists the exit codes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from dkmeans_jobs import demo, evaluate, export, info, plan, predict, train
from dkmeans_jobs.command_line import parse
from dkmeans_jobs.console import TEXT, log_exit, log_output, print_result
from dkmeans_jobs.signals import Terminated, raise_on_signals

from dkmeans import Conflict, Invalid
from dkmeans.retry import first_line, is_outage

_JOBS = {
    "plan": plan.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "predict": predict.run,
    "export": export.run,
    "info": info.run,
    "demo": demo.run,
}
_EXIT_FAILED = 1
_EXIT_INVALID = 2
_EXIT_OUTAGE = 75  # EX_TEMPFAIL of sysexits.h
_EXIT_INTERRUPTED = 130
_RESUME_HINT = "Run the same command again to go on where it stopped"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job that the command line names and return the exit code.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
    except Invalid as error:
        print(f"dkmeans: {error}", file=sys.stderr)  # noqa: T201
        return _EXIT_INVALID
    with log_output(arguments.log_format or TEXT):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Run a job, print its result and return the exit code."""
    try:
        with raise_on_signals():
            result = _JOBS[arguments.job](arguments)
        print_result(result, as_json=bool(arguments.json))
    except Invalid as error:
        return log_exit(str(error), _EXIT_INVALID)
    except Conflict as error:
        return log_exit(str(error), _EXIT_FAILED)
    except Terminated as error:  # before KeyboardInterrupt, its base class
        return log_exit(f"terminated. {_RESUME_HINT}", error.exit_code)
    except KeyboardInterrupt:
        return log_exit(f"interrupted. {_RESUME_HINT}", _EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of standard output has closed the pipe, as `head` does. That is no failure.
        # Python flushes standard output at its end, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if is_outage(error):
            return log_exit(f"{first_line(error)}. {_RESUME_HINT}", _EXIT_OUTAGE)
        fields = {"event": "exit", "exit_code": _EXIT_FAILED}
        logging.getLogger("dkmeans_jobs").exception("dkmeans: failed", extra=fields)
        return _EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
