#!/bin/sh
# Every process of the image starts here. Numba reads compiled code only from a folder that it could
# write to, and an image may be mounted read-only, for any user: so the kernels that came with it go
# where there is room. A container that is restarted in its pod keeps what it has compiled since.
set -u
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
    cp -R /opt/dkmeans/kernels "$NUMBA_CACHE_DIR" || echo "the kernels will be compiled anew" >&2
fi
exec "$@"
