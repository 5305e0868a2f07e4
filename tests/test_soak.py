"""Long runs: memory, threads and descriptors of the driver stay as they are."""

import numpy as np
import psutil
import pytest

from dkmeans import Dataset, KMeans, RunConfig

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROUNDS, STEPS = 6, 500
# What allocators and garbage collection may leave between two measurements.
SLACK_BYTES = 15 * 2**20


@pytest.mark.parametrize("where", ["threads", "workers"])
def test_three_thousand_iterations_leave_the_driver_as_large_as_it_was(where, request, tmp_path):
    client = request.getfixturevalue("client") if where == "workers" else None
    config = RunConfig(client=client, save_checkpoints_steps=100)
    rows = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    dataset = Dataset.from_array(rows).batch(1000).repeat()
    model = KMeans(20, str(tmp_path), seed=1, config=config)
    sizes, threads, descriptors = [], [], []
    process = psutil.Process()
    for _ in range(ROUNDS):
        model.train(lambda: dataset, steps=STEPS)
        sizes.append(process.memory_info().rss)
        threads.append(process.num_threads())
        descriptors.append(process.num_fds())
    half = ROUNDS // 2
    assert max(sizes[half:]) <= max(sizes[:half]) + SLACK_BYTES
    assert max(threads[half:]) <= max(threads[:half])
    assert max(descriptors[half:]) <= max(descriptors[:half])
    assert len(list(tmp_path.glob("checkpoint-*"))) == config.keep_checkpoint_max
