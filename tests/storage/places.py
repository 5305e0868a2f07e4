"""The kinds of storage that the same functions are tested with."""

import pytest

everywhere = pytest.mark.parametrize("place", ["disk", "memory", "s3"], indirect=True)
