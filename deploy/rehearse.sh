#!/bin/sh
# Builds the image, and runs scheduler, workers and jobs in it as the manifests say:
#
#   deploy/rehearse.sh [options of pytest]
#
# Needs podman, curl, openssl, and that `make test` has been run once. BASE is another base image, BUILD
# more options of `podman build`. With KUBERNETES_BINARIES, a folder with Kubernetes' API server,
# controllers and scheduler, and OPERATOR_PYTHON, which has dask-kubernetes, a DaskJob is applied too.
# docs/operations.md says where to get all of that, and what came of it last.
set -eu
cd "$(dirname "$0")/.."
podman build ${BUILD:-} ${BASE:+--build-arg "BASE=$BASE"} --layers --file deploy/Dockerfile \
    --target cpu --tag localhost/dkmeans:0.1.0-cpu .
exec "${PYTHON:-.venv/bin/python}" -m pytest -v --durations=0 tests/rehearsal.py \
    ${KUBERNETES_BINARIES:+tests/rehearsal_operator.py} "$@"
