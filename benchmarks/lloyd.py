"""Full-batch training beside scikit-learn's Lloyd: same rows, same first centers, same steps.

Each pair of runs is made in turn in one process, so that both see the machine as it is at the time.
The figures are whole calls, checkpoints and checks of the input included. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import sklearn
from sklearn.cluster import KMeans as Peer

import dkmeans
from dkmeans import executors

SHAPES = [(1_000_000, 64, 256), (2_000_000, 8, 64), (1_000_000, 3, 16), (250_000, 100, 1000)]


def rows_of(kind: str, n: int, d: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "clustered":
        rows += 3 * rng.standard_normal((k, d), dtype=np.float32)[rng.integers(k, size=n)]
    return rows


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(kind: str, n: int, d: int, k: int, steps: int, repeats: int) -> str:
    rows = rows_of(kind, n, d, k)
    first = rows[np.random.default_rng(8).choice(n, k, replace=False)]

    def ours() -> object:
        with tempfile.TemporaryDirectory() as model_dir:
            model = dkmeans.KMeans(k, model_dir, first, use_mini_batch=False)
            return model.train(lambda: rows, steps=steps)

    def theirs() -> object:
        return Peer(k, init=first, n_init=1, max_iter=steps, tol=0, algorithm="lloyd").fit(rows)

    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats + 1)][1:]
    own, peer = (statistics.median(column) * 1000 / steps for column in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    return f"| {n:,} x {d}, {k}, {kind} | {own:.0f} | {peer:.0f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smallest", action="store_true", help="the third shape only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's about stopping at max_iter
    cores = executors.usable_cores()
    print(f"{processor()}, {cores} cores, Linux {platform.release().split('-')[0]}")
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, dkmeans "
        f"{dkmeans.__version__}, scikit-learn {sklearn.__version__}; {date.today()}\n"
    )
    print("| rows x d, k, data | dkmeans, ms per step | scikit-learn | ratio |")
    print("| --- | --- | --- | --- |")
    for shape in SHAPES[2:3] if arguments.smallest else SHAPES:
        for kind in ("noise", "clustered"):
            print(measure(kind, *shape, arguments.steps, arguments.repeats), flush=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "processor")


if __name__ == "__main__":
    main()
