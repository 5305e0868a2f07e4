"""The kernels, run on the host."""

import pytest

from dkmeans.backends.cuda.launches import Launches
from tests.host_device import HostDevice


class Recording(HostDevice):
    """The host, which records all launches.

    Attributes:
        launched: Name and arguments of each kernel.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.launched = []

    def launch(self, kernel, dtype, blocks, *arguments, shared_bytes=0):
        super().launch(kernel, dtype, blocks, *arguments, shared_bytes=shared_bytes)
        self.launched.append((kernel, arguments))


@pytest.fixture(scope="module")
def device(compiled):
    return Recording(compiled)


@pytest.fixture(scope="module")
def on_host(device):
    return Launches(device)
