"""Identity of a prediction: a second run continues an output only of exactly the same prediction.

The identity consists of names, shapes and digests. Stored rows are never read for it. Rows that are
stored under the same name with the same shape and dtype count as the same rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.checkpoints.format import sha256
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Source
from dkmeans.data.sources.arrow_dataset import FragmentRows
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from dkmeans.data.sources.zarr_array import ZarrRows

OUTPUT_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """All that tells one prediction from another. Stored with the output, by these names.

    Attributes:
        format: Format of the output: the layout of its regions and of their marks.
        checkpoint: Full path or URL of the checkpoint.
        centers_sha256: Digest of the centers: another checkpoint may get the same address.
        distance_metric: Name of the distance.
        input: Name of the first rows, without a password. Rows of another name are another
            prediction.
        input_sha256: Digest of the sources of the rows and of their order. For rows in memory, it
            covers their values.
        rows: Number of rows.
        columns: Number of columns.
        num_clusters: Number of centers.
        region_rows: Largest number of rows in a region.
        file_rows: The same of a region that is a file of the input; files of more rows become
            several regions.
        results: Names of the results that are written.
        top: Number of nearest centers that are written for each row.
        kept: Names of the columns of the input that are written.
        partition_by: Name of the result that folders name; empty for none.
        kept_sha256: Digest of those columns in memory; empty if the input is stored.
    """

    format: int
    checkpoint: str
    centers_sha256: str
    distance_metric: str
    input: str
    input_sha256: str
    rows: int
    columns: int
    num_clusters: int
    region_rows: int
    results: tuple[str, ...]
    top: int = 0
    kept: tuple[str, ...] = ()
    partition_by: str = ""
    kept_sha256: str = ""
    file_rows: int = 0

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        batch: Batch,
        region_rows: int,
        results: tuple[str, ...],
        top: int = 0,
        kept: tuple[str, ...] = (),
        partition_by: str = "",
    ) -> Prediction:
        """Return the prediction for the rows of a batch with the centers of a checkpoint."""
        centers = checkpoint.state.centers
        return cls(
            format=OUTPUT_FORMAT,
            checkpoint=storage.absolute(checkpoint.address),
            centers_sha256=sha256(centers),
            distance_metric=str(checkpoint.settings.distance_metric),
            input=storage.without_user(batch[0].source.name),
            input_sha256=rows_sha256(batch),
            rows=batch.rows,
            columns=int(centers.shape[1]),
            num_clusters=len(centers),
            region_rows=region_rows,
            results=results,
            top=top,
            kept=kept,
            partition_by=partition_by,
        )

    def as_json(self) -> dict[str, Any]:
        """Return all attributes by name, as JSON gives them back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def differences(self, found: dict[str, Any]) -> list[str]:
        """Return the names of the attributes that differ from those found in an output."""
        return [name for name, value in self.as_json().items() if found.get(name) != value]


def rows_sha256(batch: Batch) -> str:
    """Return a digest of the sources of rows and their order; for rows in memory, of the values."""
    digest = hashlib.sha256()
    stand_ins: dict[Source, Source] = {}

    def stand_in(source: Source) -> Source:
        # A source may hold rows, futures or graphs. Its stand-in has a short name for them instead,
        # the same in any process. Several chunks may be of one source.
        if source not in stand_ins:
            table = (source.rows, source.width, source.dtype, 0)
            stand_ins[source] = ShippedRows(0, _name_of(source), *table)
        return stand_ins[source]

    for described in batch.with_leaves(stand_in).description():
        digest.update(described)
    return digest.hexdigest()


def _name_of(source: Source) -> str:
    """Return a text that tells a leaf source from all others, the same in any process."""
    if isinstance(source, MemoryRows):  # named by the caller, so only the values tell them apart
        # An array of words holds their addresses in memory, which other words may get later.
        has_words = source.array.dtype.hasobject
        words = hashlib.sha256(repr(source.array.tolist()).encode()) if has_words else None
        return f"{source.first} {words.hexdigest() if words else sha256(source.array)}"
    if isinstance(source, DaskRows):  # Dask makes keys from what the rows are computed from
        return repr(source.key)
    if isinstance(source, FutureRows):
        return repr(source.future.key)
    if isinstance(source, ZarrRows):
        return repr((source.name, source.key, source.rows, source.width, str(source.dtype)))
    if isinstance(source, FragmentRows):
        return source.describe()
    return repr(source)
