"""How a fit runs, apart from what it computes."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

from dkmeans.errors import Invalid, InvalidType, check_integer, check_number, expected

# The first that a worker can use is chosen where none is named.
BACKENDS = ("cuda", "native", "numpy")

# Whether rows that are read again are kept: what fits, nothing, or everything.
AUTO, NONE, MEMORY = CACHES = ("auto", "none", "memory")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how an estimator runs; immutable, `replace` returns a changed copy.

    Attributes:
        model_dir: Path or URL of the model; None leaves it to the estimator.
        tf_random_seed: The seed where the estimator is given none.
        save_summary_steps: Steps between the points of TensorBoard's charts; 0 or None draws none.
            They need the package tensorboard, and are left out where it is not installed.
        save_checkpoints_secs: Seconds between checkpoints; 600 unless steps are given. 0: none but
            the opening and the closing one.
        save_checkpoints_steps: Steps between checkpoints, instead of seconds. They are written
            between iterations.
        keep_checkpoint_max: How many checkpoints are kept; 0 or None keeps all.
        log_step_count_steps: Steps between lines of the log.
        client: The `distributed.Client` to run on; None takes the active one, and the threads of
            this process where there is none.
        backend: What computes on the workers: "cuda" (an NVIDIA GPU), "native" (compiled), "numpy",
            or None: the fastest that each worker can use.
        cache: Whether workers keep the rows of stored data in memory between iterations: "auto"
            keeps what fits and reads the rest anew, "none" keeps nothing, "memory" keeps all, and
            training is refused where that does not fit.

    Raises:
        ValueError: both ways of saving are set, or a number is below its least.
    """

    model_dir: str | os.PathLike[str] | None = None
    tf_random_seed: int | None = None
    save_summary_steps: int | None = 100
    save_checkpoints_secs: float | None = None
    save_checkpoints_steps: int | None = None
    keep_checkpoint_max: int | None = 5
    log_step_count_steps: int = 100
    client: Any = None
    backend: str | None = None
    cache: str = AUTO

    def __post_init__(self) -> None:
        if self.save_checkpoints_secs is not None and self.save_checkpoints_steps is not None:
            raise Invalid(
                "save_checkpoints_secs and save_checkpoints_steps must not both be set, got "
                f"{self.save_checkpoints_secs!r} and {self.save_checkpoints_steps!r}"
            )
        if self.save_checkpoints_secs is None and self.save_checkpoints_steps is None:
            object.__setattr__(self, "save_checkpoints_secs", 600)
        check_number("save_checkpoints_secs", self.save_checkpoints_secs)
        if self.save_checkpoints_secs is not None and not self.save_checkpoints_secs >= 0:
            must = ">= 0 or None"
            raise Invalid(expected("save_checkpoints_secs", must, self.save_checkpoints_secs))
        check_integer("log_step_count_steps", self.log_step_count_steps, 1)
        for name in (
            "save_summary_steps",
            "save_checkpoints_steps",
            "keep_checkpoint_max",
            "tf_random_seed",
        ):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0)
        if self.backend is not None and self.backend not in BACKENDS:
            must = f"one of {', '.join(map(repr, BACKENDS))} or None"
            raise Invalid(expected("backend", must, self.backend))
        if self.cache not in CACHES:
            must = f"one of {', '.join(map(repr, CACHES))}"
            raise Invalid(expected("cache", must, self.cache))
        if self.client is not None and not hasattr(self.client, "submit"):
            raise InvalidType(expected("client", "a distributed.Client or None", self.client))

    @property
    def saves_on_the_way(self) -> bool:
        """Whether checkpoints are saved between the opening and the closing one."""
        return bool(self.save_checkpoints_secs or self.save_checkpoints_steps)

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed.

        Raises:
            ValueError: as the constructor does; TypeError: there is no such field.
        """
        if changes.get("save_checkpoints_steps") is not None:
            changes.setdefault("save_checkpoints_secs", None)
        elif changes.get("save_checkpoints_secs") is not None:
            changes.setdefault("save_checkpoints_steps", None)
        return replace(self, **changes)

    def __copy__(self) -> Self:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Immutable but for the client, which is a connection: a copy would be another one.
        return replace(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Nor does a connection travel: where it is unpickled, the active one is taken.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return partial(type(self), **values | {"client": None}), ()


def positive(name: str, value: float | None) -> None:
    """Refuse a number that is not above zero; None passes.

    Raises:
        ValueError: naming the argument and what it was.
    """
    if value is not None and not value > 0:
        raise Invalid(expected(name, "> 0 or None", value))
