#!/bin/sh
# Installs a wheel in fresh environments and runs the smoke test there, for each supported version of
# Python with the newest packages, and with the oldest ones that pyproject.toml allows:
#
#   deploy/smoke.sh WHEEL
#
# A version of Python that uv neither finds nor can download is reported as not tested. Variables:
#
#   UV         program (uv)
#   VERSIONS   versions or paths of Python (3.11 3.12 3.13 3.14)
#   PACKAGES   which packages, as uv has it for --resolution (highest lowest-direct)
set -eu
wheel=$1
environments=$(mktemp -d)
trap 'rm -rf "$environments"' EXIT
for python in ${VERSIONS:-3.11 3.12 3.13 3.14}; do
    for packages in ${PACKAGES:-highest lowest-direct}; do
        environment=$environments/$packages
        if ! "${UV:-uv}" venv --quiet --clear --python "$python" "$environment"; then
            echo "NOT TESTED: Python $python, which uv cannot find or download"
            break
        fi
        echo "Python $python, packages: $packages"
        # Of wheels alone: "oldest" is the oldest version that has one for this Python.
        install="${UV:-uv} pip install --quiet --only-binary :all: --python $environment/bin/python"
        $install --resolution "$packages" -r pyproject.toml
        $install --no-deps "$wheel"
        # Without the folder of the script on the path: what is tested is the wheel.
        NUMBA_CACHE_DIR=$environments/kernels-$packages "$environment/bin/python" -P tests/smoke.py
    done
done
