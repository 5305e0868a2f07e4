"""Adapting: a cluster that adapts its size keeps its workers while a fit calls them.

Such a cluster closes workers that have no tasks, and iterations by calls have none. A plugin of the
scheduler says that no worker may be closed for that. `Cluster` registers it, with the first
iteration by calls, and removes it when the fit ends. Imports distributed, so that it is imported
only where there is a client.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin


class KeptWorkers(SchedulerPlugin):  # type: ignore[misc]
    """Keeps the scheduler from choosing workers to close, until the fit or its client ends.

    Args:
        name: Name of the plugin, one for each fit.
        client: Name of the client, as the scheduler knows it.
    """

    def __init__(self, name: str, client: str) -> None:
        self.name = name
        self._client = client

    def valid_workers_downscaling(self, scheduler: Any, workers: Any) -> list[Any]:
        """Return the workers that may be closed: none."""
        return []

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Remove the plugin if the client of the fit has disconnected, so that a driver may die."""
        if client == self._client:
            scheduler.remove_plugin(self.name)
