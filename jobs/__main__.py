"""The `dkmeans` command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from dkmeans_jobs import demo, evaluate, info, plan, predict, train
from dkmeans_jobs.arguments import parse
from dkmeans_jobs.console import print_result, progress_shown

from dkmeans import Conflict, Invalid
from dkmeans.retry import first_line, is_outage

_JOBS = {
    "plan": plan.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "predict": predict.run,
    "info": info.run,
    "demo": demo.run,
}
_FAILED = 1
_INVALID = 2
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_INTERRUPTED = 130
_GOES_ON = "Run the same command again to go on where it stopped"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job; the command's exit code. A user's mistake is told without a traceback."""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        with progress_shown():
            result = _JOBS[arguments.job](arguments)
        print_result(result, as_json=bool(arguments.json))
    except Invalid as error:
        return _say(f"dkmeans: {error}", _INVALID)
    except Conflict as error:
        return _say(f"dkmeans: {error}", _FAILED)
    except KeyboardInterrupt:
        return _say(f"dkmeans: interrupted. {_GOES_ON}", _INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if is_outage(error):
            return _say(f"dkmeans: {first_line(error)}. {_GOES_ON}", _TRY_AGAIN)
        logging.getLogger("dkmeans_jobs").exception("dkmeans: failed")
        return _FAILED
    return 0


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
