"""Workers that are taken for frozen, as they send no heartbeats: `cluster` gives them no share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger("dkmeans")

# A worker is frozen if it has sent no heartbeat for this long. A worker that computes sends them
# too. Dask's interval is 2 s or less, and 1 + n / 200 s for n >= 200 workers: the second limit,
# for large clusters, is four times n / 200 s.
_SILENT_SECONDS = 8.0
_SILENT_SECONDS_PER_WORKER = 0.02
# A worker that was taken for frozen and has sent heartbeats again was perhaps only starved of CPU:
# each time it may be silent for twice as long, up to this many times as long as other workers.
_MOST_PATIENCE = 8


class FrozenWorkers:
    """The workers that were found to be frozen, until they send heartbeats again.

    Attributes:
        addresses: Their addresses.

    Args:
        client: A `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self.addresses: frozenset[str] = frozenset()
        self._client = client
        # How many times as long as other workers a worker may be silent.
        self._patience: dict[str, int] = {}

    def silent(self) -> frozenset[str]:
        """Return the workers whose last heartbeat is long before the newest one of any worker.

        At least one worker is not silent: times are compared with the newest heartbeat, not with
        the present time.
        """
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        seen = {address: each["last_seen"] for address, each in workers.items()}
        longest = max(_SILENT_SECONDS, _SILENT_SECONDS_PER_WORKER * len(seen))
        newest = max(seen.values(), default=0.0)
        return frozenset(
            address
            for address, at in seen.items()
            if newest - at > longest * self._patience.get(address, 1)
        )

    def add(self, workers: Iterable[str]) -> None:
        """Take some of the silent workers for frozen."""
        self.addresses = self.addresses.union(workers)

    def readmit(self, present: Iterable[str]) -> None:
        """Remove workers from `addresses` that send heartbeats again, or have left.

        A worker that sends heartbeats again may be silent for twice as long from now on.

        Args:
            present: All workers.
        """
        if not self.addresses:
            return
        back = self.addresses - self.silent()
        self.addresses -= back
        for worker in back.intersection(present):
            self._patience[worker] = min(2 * self._patience.get(worker, 1), _MOST_PATIENCE)
            logger.info("%s sends heartbeats again, and gets a share of the rows", worker)
