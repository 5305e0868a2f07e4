"""What a prediction is of: a run of the very same one goes on with what an earlier has written.

It is told by names, shapes and sums, never by reading the rows again: what is stored under the
same name, with the same shape and dtype, counts as the same rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.checkpoints.format import sha256
from dkmeans.data.batches import Batch, Shuffle
from dkmeans.data.chunks import Source
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from dkmeans.data.sources.zarr_array import ZarrRows

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What tells one prediction from another.

    Attributes:
        format: Of the output: the layout of the regions and of what marks them.
        checkpoint: Its full path or URL.
        centers_sha256: Of its centers: a checkpoint may be made again at the same address.
        distance_metric: By which distance.
        input: What people call the rows.
        input_sha256: Of which rows are read from where, and in which order; of rows in memory, of
            their values.
        rows: How many rows there are.
        columns: How many columns they have.
        num_clusters: How many centers there are.
        region_rows: How many rows a task writes.
        results: The names of what is written.
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

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, batch: Batch, region_rows: int, results: tuple[str, ...]
    ) -> Prediction:
        """The prediction of these rows with the centers of a checkpoint."""
        centers = checkpoint.state.centers
        return cls(
            format=FORMAT,
            checkpoint=storage.absolute(checkpoint.address),
            centers_sha256=sha256(centers),
            distance_metric=str(checkpoint.settings.distance_metric),
            input=batch[0].source.name,
            input_sha256=_input_sha256(batch),
            rows=batch.rows,
            columns=int(centers.shape[1]),
            num_clusters=len(centers),
            region_rows=region_rows,
            results=results,
        )

    @property
    def regions(self) -> int:
        """How many regions the rows make."""
        return -(-self.rows // self.region_rows)

    def as_json(self) -> dict[str, Any]:
        """All of it, as it reads when it comes back from JSON."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def differences(self, found: dict[str, Any]) -> list[str]:
        """The names of what is not the same in one that was found."""
        return [name for name, value in self.as_json().items() if found.get(name) != value]


def _input_sha256(batch: Batch) -> str:
    digest = hashlib.sha256()
    stand_ins: dict[Source, Source] = {}

    def stand_in(source: Source) -> Source:
        if source not in stand_ins:  # several chunks may be of one source
            table = (source.rows, source.width, source.dtype, 0)
            stand_ins[source] = ShippedRows(0, _described(source), *table)
        return stand_ins[source]

    def describe(batch: Batch) -> None:
        for part in batch.parts:
            if isinstance(part, Shuffle):
                digest.update(repr(part.seed).encode() + part.order.tobytes())
                describe(part.batch)
            else:
                digest.update(repr(part).encode())

    describe(batch.with_leaves(stand_in))
    return digest.hexdigest()


def _described(source: Source) -> str:
    """What a source reads, in words that are the same in another process."""
    if isinstance(source, MemoryRows):  # they have no name that would tell them from others
        return f"{source.first} {sha256(source.array)}"
    if isinstance(source, DaskRows):  # Dask's names are made from what the rows are made of
        return repr(source.key)
    if isinstance(source, FutureRows):
        return repr(source.future.key)
    if isinstance(source, ZarrRows):
        return repr((source.name, source.key, source.rows, source.width, str(source.dtype)))
    return repr(source)
