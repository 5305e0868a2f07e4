"""The manifest of a model: the one small file that lists the checkpoints that count.

A checkpoint exists from the moment at which the manifest names it. The directory is listed only to
remove what crashed drivers left, and to find checkpoints if the manifest is missing or damaged. The
manifest remembers the version of the file that was read, so that replacing the file fails if
another driver has replaced it in the meantime.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Self

from dkmeans import storage
from dkmeans.checkpoints.format import FORMAT, check_format
from dkmeans.errors import InvalidCheckpoint

FILE = "checkpoints.json"  # directly below the model's directory
# What reading the content of a file may raise that somebody else wrote, or that is damaged.
WRONG_CONTENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_NAME = re.compile(r"checkpoint-(\d+)-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The names of a model's checkpoints, as last read or written.

    Attributes:
        names: Names in the order of saving; the last is the latest.
        seen: The file as it was read; None if there was none.
        went_back_to: Name of the checkpoint that the model last went back to
            (`loading.rollback_to`), if any.
    """

    names: tuple[str, ...]
    seen: storage.Versioned | None
    went_back_to: str | None = None

    @classmethod
    def read(cls, model_dir: str) -> Self:
        """Read the manifest of a model; without a model it has no names.

        Raises:
            InvalidCheckpoint: the file is damaged, or of another version of dkmeans.
            Invalid: the address of the directory is none.
        """
        storage.refuse_malformed(model_dir)
        address = storage.join(model_dir, FILE)
        seen = storage.read(address)
        if seen is None:
            return cls((), None)
        try:
            content = json.loads(seen.data)
            check_format(model_dir, content["format"])
            names = tuple(content["checkpoints"])
            if not all(step_of(name) >= 0 for name in names):
                raise ValueError(f"{names!r} are no names of checkpoints")
            return cls(names, seen, content.get("went_back_to"))
        except WRONG_CONTENT as error:
            if isinstance(error, InvalidCheckpoint):
                raise
            raise InvalidCheckpoint(f"{address} is damaged: {error}") from error

    @classmethod
    def of_new_model(cls, model_dir: str) -> Self:
        """Return a manifest without names, which begins a model in place of what is there.

        The file is not examined: a damaged one is replaced too.
        """
        storage.refuse_malformed(model_dir)
        return cls((), storage.read(storage.join(model_dir, FILE)))

    @property
    def latest(self) -> str | None:
        """Name of the latest checkpoint; None if there is none."""
        return self.names[-1] if self.names else None

    def commit(self, model_dir: str, names: tuple[str, ...]) -> Manifest:
        """Write these names in place of this manifest, and return the new manifest.

        Raises:
            Conflict: another driver has replaced the file since this manifest was read.
            Outage: the storage does not answer.
        """
        content: dict[str, Any] = {"format": FORMAT, "checkpoints": names}
        if self.went_back_to:
            content["went_back_to"] = self.went_back_to
        data = json.dumps(content, indent=1).encode()
        seen = storage.replace(storage.join(model_dir, FILE), data, self.seen)
        return replace(self, names=names, seen=seen)


def step_of(name: str) -> int:
    """Return the step in a checkpoint's name; -1 if it is not such a name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else -1
