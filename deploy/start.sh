#!/bin/sh
# Entrypoint of the image. Numba loads compiled kernels only from a folder that it can write to, but
# the image may be read-only and run as any user. So the kernels of the image are copied to /tmp
# (docs/decisions/013). A container that restarts in its pod finds the copy and keeps kernels that it
# has compiled since.
set -u
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
    cp -R /opt/dkmeans/kernels "$NUMBA_CACHE_DIR" || echo "the kernels will be compiled anew" >&2
fi
exec "$@"
