# Two commands set the project up, each from a fresh clone: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long check site notebooks format benchmark release-check sbom locks manifests clean

demo: $(VENV)/demo
	$(BIN)/dkmeans demo

# Four processes for two cores, because many tests wait most of their time: for servers, for workers
# that start or are lost. A test that fails there, on a busy machine perhaps for want of time, is run
# once more alone, and must pass then.
test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses 4 --dist loadscope --no-loadscope-reorder \
		|| $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

# What only minutes can show: 200 kills, thousands of iterations, properties with many examples.
test-long: $(VENV)/test
	$(BIN)/python -m pytest -m "long or hypothesis" --hypothesis-profile long

# Check format, lint, types, import contracts, the site and the distribution: sdist, wheel, metadata,
# and the wheel with the oldest packages that pyproject.toml allows.
check: $(VENV)/test $(VENV)/check build/types/dkmeans_jobs site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	DKMEANS_SITE=build/site $(BIN)/python -m pytest tests/test_site_pages.py
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist
	$(BIN)/twine check --strict build/dist/*
	DKMEANS_DIST=build/dist $(BIN)/python -m pytest tests/test_packaging.py
	UV=$(BIN)/uv VERSIONS=$(BIN)/python PACKAGES=lowest-direct deploy/smoke.sh build/dist/*.whl

# All pages, with the links between them: a warning is an error.
site: $(VENV)/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/site

# Run the notebooks of the documentation, and keep what they show.
notebooks: $(VENV)/test
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

format: $(VENV)/check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What a release must pass besides the tests: the wheel in fresh environments, and links to other sites.
release-check: check
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b linkcheck docs build/links
	UV=$(BIN)/uv deploy/smoke.sh build/dist/*.whl

# What the image holds: its packages and their licences, from the lock that it is built from.
sbom: $(VENV)/check $(VENV)/release
	$(BIN)/uv venv --quiet --clear --python 3.11 build/image
	$(BIN)/uv pip install --quiet --python build/image/bin/python --require-hashes -r deploy/locks/cpu.txt
	$(BIN)/cyclonedx-py environment build/image/bin/python --pyproject pyproject.toml \
		--output-reproducible --output-file build/sbom-cpu.json
	$(BIN)/pip-licenses --python build/image/bin/python --format markdown --output-file build/licences-cpu.md

# One page of four measurements, build/benchmark/index.md, with pictures and JSON: in half an hour.
# PEERS is a Python that has dask-ml and pyspark; without it their columns are left out.
benchmark: $(VENV)/benchmark
	rm -rf build/benchmark
	$(BIN)/python benchmarks/kernel.py
	$(BIN)/python benchmarks/cluster.py $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python benchmarks/initialization.py --data blobs
	$(BIN)/python benchmarks/initialization.py --table
	$(BIN)/python benchmarks/report.py build/benchmark

# What the image installs, to the byte; see docs/operations.md.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --custom-compile-command 'make locks'

locks: $(VENV)/check
	$(LOCK) --extra prometheus --extra sklearn pyproject.toml --output-file deploy/locks/cpu.txt
	$(LOCK) --extra prometheus --extra sklearn --constraint deploy/locks/cpu.txt pyproject.toml \
		deploy/locks/gpu.in --output-file deploy/locks/gpu.txt
	echo 'setuptools>=77' | $(LOCK) - --output-file deploy/locks/build.txt

# What the overlays come to, which tests look at.
manifests:
	for each in deploy/k8s/overlays/*; do \
		kubectl kustomize $$each > tests/deploy/rendered/$$(basename $$each).yaml; \
	done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo $(VENV)/test $(VENV)/check $(VENV)/docs $(VENV)/release $(VENV)/benchmark: $(VENV)/%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# The jobs are installed under another name than their folder's, which mypy cannot know.
build/types/dkmeans_jobs:
	mkdir -p $(@D)
	ln -sfn ../../jobs $@

clean:
	rm -rf $(VENV) build demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
