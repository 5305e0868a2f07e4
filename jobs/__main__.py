"""The `dkmeans` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from dkmeans_jobs import demo, evaluate, export, info, plan, predict, train
from dkmeans_jobs.command_line import parse
from dkmeans_jobs.console import TEXT, print_result, say, told
from dkmeans_jobs.signals import Terminated, termination_heeded

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
_FAILED = 1
_INVALID = 2
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_INTERRUPTED = 130
_TERMINATED = 143
_GOES_ON = "Run the same command again to go on where it stopped"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job; the command's exit code. A user's mistake is told without a traceback."""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
    except Invalid as error:
        print(f"dkmeans: {error}", file=sys.stderr)  # noqa: T201
        return _INVALID
    with told(arguments.log_format or TEXT):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        with termination_heeded():
            result = _JOBS[arguments.job](arguments)
        print_result(result, as_json=bool(arguments.json))
    except Invalid as error:
        return say(str(error), _INVALID)
    except Conflict as error:
        return say(str(error), _FAILED)
    except Terminated:
        return say(f"terminated. {_GOES_ON}", _TERMINATED)
    except KeyboardInterrupt:
        return say(f"interrupted. {_GOES_ON}", _INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if is_outage(error):
            return say(f"{first_line(error)}. {_GOES_ON}", _TRY_AGAIN)
        ended = {"event": "exit", "exit_code": _FAILED}
        logging.getLogger("dkmeans_jobs").exception("dkmeans: failed", extra=ended)
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
