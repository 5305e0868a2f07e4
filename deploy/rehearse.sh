#!/bin/sh
# Builds the image, and runs scheduler, workers and jobs in it as the manifests would:
#
#   deploy/rehearse.sh [options of pytest]
#
# Needs podman, curl, and `make test` to have been run once. BASE is another base image, BUILD more
# options of `podman build`; without a registry, docs/operations.md says how to make a base.
set -eu
cd "$(dirname "$0")/.."
podman build ${BUILD:-} ${BASE:+--build-arg "BASE=$BASE"} --layers --file deploy/Dockerfile \
    --target cpu --tag localhost/dkmeans:0.1.0-cpu .
exec "${PYTHON:-.venv/bin/python}" -m pytest tests/rehearsal.py -v --durations=0 "$@"
