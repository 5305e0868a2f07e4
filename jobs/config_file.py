"""The TOML file of `--config`: its entries as flags, which the command line overrules."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from dkmeans_jobs.flags import FLAGS
from dkmeans_jobs.input import joined_names

from dkmeans import Invalid
from dkmeans.errors import expected

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
        Invalid: the file cannot be read, or has an entry that is no flag of the job, or a value of
            another type than the flag takes.
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
        _check_type(path, key, value)
        overruling = [name, *_OVERRULING_FLAGS.get(name, ())]
        # A switch that is `false` in the file is the same as no flag.
        # Without INPUT on the command line its list is empty.
        if value is False or any(getattr(arguments, n, None) not in (None, []) for n in overruling):
            continue
        text = joined_names(value) if isinstance(value, list) else str(value)
        if name == "input" and isinstance(arguments.input, list):
            flags += map(str, value) if isinstance(value, list) else [text]
        elif name == "filter" and isinstance(value, list):
            flags += [f"--filter={term}" for term in value]
        else:
            flag = f"--{name.replace('_', '-')}"
            # In one piece: a text may begin with "-".
            flags += [flag if value is True else f"{flag}={text}"]
    return flags


def _check_type(path: str, key: str, value: Any) -> None:
    """Refuse a value of another type than a flag takes: argparse would name another argument.

    Raises:
        Invalid: a switch is neither true nor false, or another flag has no texts or numbers.
    """
    is_switch = FLAGS.get(f"--{key.replace('_', '-')}", {}).get("action") == "store_true"
    if is_switch:
        must, is_right = "true or false", isinstance(value, bool)
    else:
        values = value if isinstance(value, list) else [value]
        must = "a text or a number, or a list of them"
        is_right = not any(isinstance(each, bool | dict | list) for each in values)
    if not is_right:
        raise Invalid(expected(f"{key} in {path}", must, value))
