"""How Dask's client and scheduler send messages: sooner than they would, and cache_budget none."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_SEND_SECONDS = 1e-3


def hasten(client: Any) -> None:
    """Have the client send what it is given at once, and not after 10 ms.

    It gathers messages for so long after each that it sends, and an iteration has several.
    """
    sender: Any = getattr(client, "scheduler_comm", None)
    if hasattr(sender, "interval"):
        sender.interval = min(sender.interval, _SEND_SECONDS)


def forget(client: Any) -> None:
    """Have client and scheduler let go of the messages that they have sent.

    They remember the last thousand to everyone, with all that is in them: centers add up to
    gigabytes.
    """
    _forget([getattr(client, "scheduler_comm", None)])
    with suppress(Exception):  # a scheduler that runs nobody's code is as it was
        client.run_on_scheduler(_forget_on_scheduler)


def _forget(senders: Iterable[Any]) -> None:
    for sender in senders:
        if hasattr(sender, "recent_message_log"):
            sender.recent_message_log.clear()


def _forget_on_scheduler(dask_scheduler: Any) -> None:
    _forget(dask_scheduler.stream_comms.values())
