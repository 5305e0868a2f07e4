"""Names of the columns that a model was trained with, in a file beside its checkpoints.

`training` saves them when a model begins. `prediction` compares them with those of other rows: a
center is a point in the space of these columns, so rows of other columns, or in another order, are
points of another space. Rows without names, such as those of arrays, are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dkmeans import storage
from dkmeans.errors import InvalidData, expected

_FILE = "columns.json"
# Number of names that a message shows.
_MOST_SHOWN = 20


def save_columns(model_dir: str, names: Sequence[str] | None) -> None:
    """Write the names of the columns; None if the columns have none."""
    storage.write(storage.join(model_dir, _FILE), json.dumps(names).encode())


def load_columns(model_dir: str) -> list[str] | None:
    """Return the names of the columns; None if they are not known."""
    found = storage.read(storage.join(model_dir, _FILE))
    try:
        names = json.loads(found.data) if found else None
    except ValueError:  # half a file, from a file system that lost the rest
        return None
    return names if isinstance(names, list) else None


def check_columns(model_dir: str, names: Sequence[str] | None) -> None:
    """Refuse columns that have other names, or another order, than those of the model.

    Args:
        model_dir: Path or URL of the model.
        names: Names of the columns of some rows; None if they are not known.

    Raises:
        InvalidData: the names are known to differ.
    """
    trained = load_columns(model_dir) if names is not None else None
    if names is None or trained is None or list(names) == trained:
        return
    if sorted(names) == sorted(trained):
        must = "in the order in which the model was trained with them"
    else:
        must = "those that the model was trained with"
    raise InvalidData(
        expected("the columns", f"{must}, {_shown(trained)}", list(names))
        + f"; choose columns, or give another model_dir ({model_dir})"
    )


def _shown(names: Sequence[str]) -> str:
    """Return names as text, of very many only the first ones."""
    return f"{names}" if len(names) <= _MOST_SHOWN else f"{names[:_MOST_SHOWN]}..."
