"""Backends: the computations on a chunk's rows, for NumPy, for compiled code and for GPUs.

A backend is a module with the functions of `protocol.Backend`. `select` chooses one in each process
(`choice`), so workers of one fit may use different backends. All backends find the same nearest
centers, and tests/backends/test_backends.py holds all of them to the same answers.

    backend = select()
    sums = backend.partial_sums(rows, Centers(values, Distance.COSINE))
"""

from dkmeans.backends.choice import chooses_gpu, cores_per_gpu, select, select_processor
from dkmeans.backends.protocol import Backend, Implementation

__all__ = [
    "Backend",
    "Implementation",
    "chooses_gpu",
    "cores_per_gpu",
    "select",
    "select_processor",
]
