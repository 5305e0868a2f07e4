"""Time fits of rows with weights beside fits of the same rows without.

Prints a Markdown table: CPU seconds of whole fits, and in brackets seconds, in turn, the medians of
some rounds; and ratios of both. See docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time

import kernel
import numpy as np

import dkmeans

SHAPES = (
    ("flights", (327_346, 7, 100)),
    ("noise", (1_000_000, 3, 16)),
    ("noise", (500_000, 8, 64)),
    ("blobs", (200_000, 32, 256)),
    ("noise", (400_000, 64, 256)),
    ("embeddings", (60_000, 100, 1000)),
)


def seconds(
    rows: np.ndarray, centers: np.ndarray, weights: np.ndarray | None, *, steps: int
) -> tuple[float, float]:
    """Return the CPU time of a fit, of all threads, and the time that passed."""
    features = rows if weights is None else (rows, {"weights": weights})
    with tempfile.TemporaryDirectory() as folder:
        model = dkmeans.KMeans(
            len(centers), folder, initial_clusters=centers, use_mini_batch=False, seed=1
        )
        began = time.process_time(), time.perf_counter()
        model.train(lambda: features, steps=steps)
        return time.process_time() - began[0], time.perf_counter() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # clusters without rows
    print("| rows | n, d, k | without, s | whole weights | float32 weights | float64 weights |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, shape in SHAPES:
        rows, centers = kernel.rows_of(name, shape, "float32")
        rng = np.random.default_rng(3)
        real = rng.uniform(0.5, 2, len(rows))
        kinds = (None, rng.integers(1, 4, len(rows)), real.astype(np.float32), real)
        times = [
            [
                seconds(rows, np.asarray(centers, np.float32), weights, steps=options.steps)
                for weights in kinds
            ]
            for _ in range(options.rounds)
        ]
        without, *others = np.median(times, axis=0)
        pairs = (without, *(each / without for each in others))
        shown = " | ".join(f"{cpu:.2f} ({passed:.2f})" for cpu, passed in pairs)
        numbers = ", ".join(f"{number:,}" for number in shape)
        print(f"| {name} | {numbers} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
