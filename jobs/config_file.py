"""The TOML file of `--config`: its entries as flags, which the command line overrules."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from dkmeans import Invalid

# For each setting of a TOML file, the flags that overrule it although they have another name: the
# two exclude each other, and the command line has priority over the file.
_OVERRULING_FLAGS = {
    "full_batch": ("batch_rows",),
    "batch_rows": ("full_batch",),
    "steps_per_iteration": ("full_batch",),
    "steps": ("max_steps",),
    "max_steps": ("steps",),
    "save_checkpoints_secs": ("save_checkpoints_steps",),
    "save_checkpoints_steps": ("save_checkpoints_secs",),
}


def as_flags(arguments: argparse.Namespace, path: str) -> list[str]:
    """Return the entries of a TOML file as flags, except those that the command line overrules.

    Args:
        arguments: Arguments of the command line; None stands for a flag that was not given.
        path: Path of the TOML file.

    Raises:
        Invalid: the file cannot be read, or has an entry that is no flag of the job.
    """
    try:
        entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(
            f"--config must be a TOML file, and {path} cannot be read: {error}"
        ) from error
    known = set(vars(arguments)) - {"job", "config", "needs"}
    flags: list[str] = []
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in known:
            allowed = ", ".join(sorted(k.replace("_", "-") for k in known))
            raise Invalid(
                f"{path} must have keys that are flags of {arguments.job}, got {key!r}; the flags "
                f"are {allowed}"
            )
        overruling = [name, *_OVERRULING_FLAGS.get(name, ())]
        # `false` in the file is the same as no flag.
        # Without INPUT on the command line its list is empty.
        if value is False or any(getattr(arguments, n, None) not in (None, []) for n in overruling):
            continue
        if isinstance(value, dict):
            raise Invalid(f"{path}: {key} must be a value, got a table")
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if name == "input" and isinstance(arguments.input, list):
            flags += map(str, value) if isinstance(value, list) else [text]
        elif name == "filter" and isinstance(value, list):
            flags += [part for term in value for part in ("--filter", str(term))]
        else:
            flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [text])
    return flags
