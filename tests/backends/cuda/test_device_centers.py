"""Centers on the device, which threads share."""

import numpy as np

from dkmeans.backends.cuda.launches import Launches
from tests.backends.cuda.problems import needs_compiler, problem
from tests.host_device import HostDevice


@needs_compiler
def test_prepared_centers_are_complete_before_another_thread_gets_them(compiled, monkeypatch):
    device = HostDevice(compiled)
    rows, centers = problem(40, 7, np.float32, "squared_euclidean", n=30)
    backend, waited = Launches(device), []
    prepared = backend._prepared(centers, rows.dtype)
    arrays = vars(prepared).keys()
    monkeypatch.setattr(device, "synchronize", lambda: waited.append(set(prepared.products)))
    assert {"few", "exact"} <= arrays
    backend.nearest(rows, centers)
    backend.nearest(rows, centers)
    # One wait for the only product that is made, and none when it is found.
    assert waited == [{1}]
