"""Small fits to save, and the files that a model's directory holds afterwards."""

from uuid import uuid4

import numpy as np
import obstore

from dkmeans import checkpoints, storage
from dkmeans.checkpoints import Manifest, Settings, commit
from dkmeans.distance import Distance
from dkmeans.exact_total import total_of
from dkmeans.fit import Fit, Start
from dkmeans.state import PartialSums, TrainState
from tests.exactly import sums_of

SETTINGS = Settings(Distance.SQUARED_EUCLIDEAN, True, 4)


def state(step=1, dtype=np.float32, *, pending=False, k=5, d=3):
    rng = np.random.default_rng(step)
    sums = PartialSums(
        sums_of(rng.normal(size=(k, d))), rng.integers(9, size=k), total_of(rng.normal(size=k))
    )
    return TrainState(
        centers=rng.normal(size=(k, d)).astype(dtype),
        counts=rng.integers(2**60, size=k),
        step=step,
        pending=sums if pending else None,
        pending_steps=3 if pending else 0,
        inertia=float(rng.normal()) if step else None,
    )


def fit_of(state):
    return Fit((Start(state, steps=state.step),))


def save(model_dir, saved, settings=SETTINGS, stop=None, keep=5):
    """Save a fit or a single state after what the model has; return the new manifest."""
    fit = saved if isinstance(saved, Fit) else fit_of(saved)
    return checkpoints.save(model_dir, Manifest.read(model_dir), fit, settings, stop, keep)


def save_step(model_dir, step, manifest=None, keep=0):
    """Save a fit of this step, as a driver does that has read this manifest."""
    manifest = Manifest.read(model_dir) if manifest is None else manifest
    return checkpoints.save(model_dir, manifest, fit_of(state(step)), SETTINGS, None, keep)


def same_bits(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def names_in(model_dir):
    """Return the names of the checkpoints of which any file exists."""
    if model_dir.startswith("s3://"):  # by key: SeaweedFS, unlike S3, lists emptied folders
        store = obstore.store.from_url(model_dir)
        files = [entry["path"] for page in obstore.list(store) for entry in page]
    else:
        fs, path = storage.filesystem(model_dir)
        files = [file.removeprefix(path).strip("/") for file in fs.find(path)]
    return sorted({file.partition("/")[0] for file in files if file.startswith("checkpoint-")})


def newest(model_dir):
    return storage.join(model_dir, Manifest.read(model_dir).latest)


def values_file(address, array):
    """Return the filesystem and the path of the largest file of an array: its values."""
    fs, path = storage.filesystem(storage.join(address, array))
    file = max((f for f in fs.find(path) if not f.endswith("zarr.json")), key=fs.size)
    return fs, file


def leave_half_written(model_dir, step):
    """Leave what a driver leaves that is killed while it writes a checkpoint; return the name."""
    name = f"checkpoint-{step:08d}-{uuid4().hex[:8]}"
    commit._write(storage.join(model_dir, name), fit_of(state(step)), SETTINGS, None)
    fs, file = values_file(storage.join(model_dir, name), "counts")
    fs.rm_file(file)
    return name
