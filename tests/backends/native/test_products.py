"""The kernel that moves products: what its cached machine code is valid for."""

import hashlib
from importlib.resources import files

from dkmeans.backends.native import products


def test_the_hash_is_that_of_the_files_of_intrinsics():
    folder = files("dkmeans.backends.native")
    names = ("product_vectors", "sum_vectors", "vectors")
    content = b"".join(folder.joinpath(f"{name}.py").read_bytes() for name in names)
    assert hashlib.sha256(content).hexdigest()[:12] == products.INTRINSICS
