"""The `dkmeans` command.

This module imports the jobs only when the command runs. That takes seconds, in which Ctrl-C must
end the command without a traceback as it does later.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from dkmeans_jobs import ENDING_SIGNALS, EXIT_INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job that the command line names and return the exit code.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    try:
        from dkmeans_jobs.command import run_command  # noqa: PLC0415 see the module

        return run_command(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # `run_command` handles those that come while a job runs
        print("dkmeans: interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    finally:
        if argv is None:  # the process ends: a further signal would change its exit code
            for name in ENDING_SIGNALS:
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
