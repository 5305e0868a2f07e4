"""A scheduler and workers as processes of their own, which tests kill.

They are forked from a process that has imported Dask: `dask scheduler` and `dask worker` would take
seconds to import it.
"""

import asyncio

from distributed import Scheduler, Worker
from distributed.utils import get_mp_context

# What an option of `dask worker` does: a worker without a scheduler ends after this time.
_DEATH_SECONDS = 20


class Processes:
    """A scheduler and its workers, of one thread each.

    Args:
        stack: An `ExitStack`; all processes are killed at its end.
        port: Port of the scheduler.
    """

    def __init__(self, stack, port):
        self.address = f"tcp://127.0.0.1:{port}"
        self._stack = stack
        self.scheduler = self._start(Scheduler, host="127.0.0.1", port=port, dashboard=False)

    def worker(self, port=0):
        """Start a worker at this port; 0 takes any. It waits for the scheduler."""
        options = {"nthreads": 1, "dashboard": False, "death_timeout": _DEATH_SECONDS}
        return self._start(Worker, self.address, host="127.0.0.1", port=port, **options)

    def _start(self, *what, **options):
        process = get_mp_context().Process(target=_serve, args=(what, options))
        process.start()
        self._stack.callback(process.join)
        self._stack.callback(process.kill)
        return process


def _serve(what, options):
    async def serve():
        kind, *arguments = what
        async with kind(*arguments, **options) as server:
            await server.finished()

    asyncio.run(serve())
