"""A source whose reads take a while and are recorded."""

import threading
import time
from dataclasses import dataclass, field

from tests.numbered import Numbers

READ_SECONDS = 0.02
_LOCK = threading.Lock()


@dataclass(frozen=True)
class SlowRows(Numbers):
    """Numbered rows that take a while to read.

    Attributes:
        broken: Number of a row that cannot be read.
        begun: First rows of all reads that have begun.
    """

    key: str = "slow"
    broken: int = -1
    begun: list = field(default_factory=list, compare=False)

    def read(self, start, stop):
        with _LOCK:
            self.begun.append(start)
        time.sleep(READ_SECONDS)
        if start == self.broken:
            raise ValueError("broken")
        return super().read(start, stop)
