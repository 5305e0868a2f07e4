"""Configuration of a run: `RunConfig`, the settings that do not change what is computed.

The estimator takes a `RunConfig`, and the executors and backends import its constants. Names and
defaults of the fields are those of TensorFlow's `RunConfig`; `client`, `backend`, `cache` and
`progress` are new.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

from dkmeans.errors import Invalid, InvalidType, check_integer, check_number, check_path, expected

# In the order of preference: a worker uses the first one that it can, unless one is named.
BACKENDS = ("cuda", "native", "numpy")
# The backend that computes on GPUs, and the one that needs no compiler.
GPU, NUMPY = BACKENDS[0], BACKENDS[-1]

# What the workers cache of the rows: as many as fit, none, or all.
AUTO, NONE, MEMORY = CACHES = ("auto", "none", "memory")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration of an estimator's runs. It is immutable; `replace` returns a changed copy.

    Attributes:
        model_dir: Path or URL of the model's directory; None leaves the choice to the estimator.
        tf_random_seed: Seed of the random generator if the estimator is given none.
        save_summary_steps: Steps between two points of TensorBoard's charts; 0 or None: no charts.
            Without the package tensorboard there are no charts either.
        save_checkpoints_secs: Seconds between two checkpoints; 600 if `save_checkpoints_steps` is
            None. 0: only the opening and the closing checkpoint.
        save_checkpoints_steps: Steps between two checkpoints, instead of seconds. Checkpoints are
            written between iterations.
        keep_checkpoint_max: Number of checkpoints to keep; 0 or None keeps all.
        log_step_count_steps: Steps between two lines of the log at level INFO.
        client: The `distributed.Client` to run on; None: the active client, or the threads of this
            process if there is no active client.
        backend: Backend of the workers: "cuda" (an NVIDIA GPU), "native" (compiled), "numpy", or
            None: the fastest that each worker can use.
        cache: Rows of stored data that workers cache between iterations: "auto" as many as fit,
            "none", or "memory": all, and training is refused if they do not fit.
        progress: "auto" shows the progress of each call: a live line in a terminal or a notebook,
            and lines of text on standard error elsewhere. None shows nothing; the log has it all.

    Raises:
        ValueError: both intervals of checkpoints are set, or a number is too small.
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
    progress: str | None = None

    def __post_init__(self) -> None:
        if self.model_dir is not None:
            check_path("model_dir", self.model_dir)
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
        if self.progress not in (AUTO, None):
            raise Invalid(expected("progress", f"{AUTO!r} or None", self.progress))
        if self.client is not None and not hasattr(self.client, "submit"):
            raise InvalidType(expected("client", "a distributed.Client or None", self.client))

    @property
    def saves_on_the_way(self) -> bool:
        """True if checkpoints are saved between the opening and the closing one."""
        return bool(self.save_checkpoints_secs or self.save_checkpoints_steps)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these fields changed.

        Setting one interval of checkpoints unsets the other one.

        Raises:
            ValueError: as the constructor does.
            TypeError: there is no such field.
        """
        if changes.get("save_checkpoints_steps") is not None:
            changes.setdefault("save_checkpoints_secs", None)
        elif changes.get("save_checkpoints_secs") is not None:
            changes.setdefault("save_checkpoints_steps", None)
        return replace(self, **changes)

    def __copy__(self) -> Self:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # All fields are immutable except the client, which is a connection and cannot be copied.
        return replace(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A connection cannot be pickled. The unpickled config uses the active client.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return partial(type(self), **values | {"client": None}), ()
