#!/bin/sh
# Builds the image, and runs scheduler, workers and jobs in it with the settings of the manifests:
#
#   deploy/rehearse.sh [options of pytest]
#
# Needs podman, curl, openssl and the environment that `make test` creates. Optional variables:
#
#   BASE                 base image
#   BUILD                further options of `podman build`
#   KUBERNETES_BINARIES  folder with Kubernetes' API server, controllers and scheduler; with it and
#   OPERATOR_PYTHON      Python of an environment with dask-kubernetes, DaskJobs are applied too
#
# docs/operations.md says where to get these programs, and lists the results of the last run.
set -eu
cd "$(dirname "$0")/.."
podman build ${BUILD:-} ${BASE:+--build-arg "BASE=$BASE"} --layers --file deploy/Dockerfile \
    --target cpu --tag localhost/dkmeans:0.1.0-cpu .
exec "${PYTHON:-.venv/bin/python}" -m pytest -v --durations=0 tests/deploy/rehearsal.py \
    ${KUBERNETES_BINARIES:+tests/deploy/rehearsal_operator.py} "$@"
