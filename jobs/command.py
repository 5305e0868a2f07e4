"""One command line: parse it, run its job, print the result, return an exit code.

`__main__` calls `run_command`. Each exception of a job becomes one exit code and one line of the
log. Only an exception that no user could have caused is logged with a traceback. docs/operations.md
lists the exit codes.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from dkmeans_jobs import (
    EXIT_INTERRUPTED,
    demo,
    evaluate,
    export,
    html_report,
    info,
    plan,
    predict,
    sweep,
    train,
)
from dkmeans_jobs.console import TEXT, log_exit, log_output, print_result
from dkmeans_jobs.parser import parse
from dkmeans_jobs.signals import Terminated, raise_on_signals

from dkmeans import Conflict, Invalid
from dkmeans.retry import first_line, is_outage

_JOBS = {
    "plan": plan.run,
    "train": train.run,
    "sweep": sweep.run,
    "evaluate": evaluate.run,
    "predict": predict.run,
    "report": html_report.run,
    "export": export.run,
    "info": info.run,
    "demo": demo.run,
}
_EXIT_FAILED = 1
_EXIT_INVALID = 2
_EXIT_OUTAGE = 75  # EX_TEMPFAIL of sysexits.h
# Errors of disks and folders that the user must correct before another attempt.
_ENVIRONMENT_ERRNOS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
_HINT = "Run the same command again"
# Jobs that go on where they stopped.
_RESUMED = ("train", "sweep", "predict", "demo")


def run_command(argv: Sequence[str]) -> int:
    """Run the job that the arguments of the command name; return the exit code."""
    try:
        arguments = parse(argv)
    except Invalid as error:
        print(f"dkmeans: error: {error}", file=sys.stderr)  # noqa: T201
        return _EXIT_INVALID
    with log_output(arguments.log_format or TEXT):
        result = _run(arguments)
    if isinstance(result, int):
        return result
    # After the log, whose live line would otherwise overwrite the result on a terminal.
    return _print(result, as_json=bool(arguments.json))


def _print(result: dict[str, Any], *, as_json: bool) -> int:
    """Print the result of a job and return the exit code."""
    try:
        print_result(result, as_json=as_json)
        if sys.stdout is not None:  # as with `>&-`
            sys.stdout.flush()
    except OSError as error:
        # Python flushes standard output at its end, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader that has closed the pipe, as `head` does, is no failure.
        if not isinstance(error, BrokenPipeError):
            text = f"the job is done, but its result cannot be printed: {error}"
            print(f"dkmeans: error: {text}", file=sys.stderr)  # noqa: T201
            return _EXIT_INVALID
    return 0


def _run(arguments: argparse.Namespace) -> dict[str, Any] | int:
    """Run a job and return its result, or the exit code if it fails."""
    hint = _HINT
    if arguments.job in _RESUMED:
        # With the flag, the command would begin once more.
        flag = " without --overwrite" if getattr(arguments, "overwrite", None) else ""
        hint += f"{flag} to go on where it stopped"
    try:
        with raise_on_signals():
            return _JOBS[arguments.job](arguments)
    except Invalid as error:
        return log_exit(str(error), _EXIT_INVALID)
    except Conflict as error:
        return log_exit(str(error), _EXIT_FAILED)
    except KeyboardInterrupt as error:
        return _log_interrupt(error, hint)
    except Exception as error:
        if is_outage(error):
            return log_exit(f"{first_line(error)}. {hint}", _EXIT_OUTAGE)
        if isinstance(error, OSError) and error.errno in _ENVIRONMENT_ERRNOS:
            return log_exit(_describe(error, arguments), _EXIT_INVALID)
        interrupt = _interrupt_behind(error)
        if interrupt is not None:
            return _log_interrupt(interrupt, hint)
        fields = {"event": "exit", "exit_code": _EXIT_FAILED}
        logging.getLogger("dkmeans").exception("dkmeans: error: failed", extra=fields)
        return _EXIT_FAILED


def _log_interrupt(error: KeyboardInterrupt, hint: str) -> int:
    """Log that a signal has ended a job, and return the exit code."""
    if isinstance(error, Terminated):
        return log_exit(f"terminated. {hint}", error.exit_code, logging.WARNING)
    return log_exit(f"interrupted. {hint}", EXIT_INTERRUPTED, logging.WARNING)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt during which an error was raised; None if there was none.

    An interrupt between two instructions may leave a lock in a state in which Python cannot release
    it: "release unlocked lock" would hide the signal.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _describe(error: OSError, arguments: argparse.Namespace) -> str:
    """Return the text of an error of a disk or folder, with the place if it is known."""
    text = first_line(error)
    places = (getattr(arguments, name, None) for name in ("output", "model_dir"))
    place = next((place for place in places if place), None)
    # A file that is open already has no name in the error.
    return text if error.filename or not place else f"{place} cannot be written: {text}"
