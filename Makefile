# Two commands do everything: `make parity` and `make test`. Both set up .venv first; a second call finds it ready.
PYTHON ?= python3
SUITE ?= core
JOBS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
KIND := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
READY := $(VENV)/.ready-$(KIND)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: parity test lint format clean
parity: $(READY)
	mkdir -p out
	$(PY) -m parity run --suite $(SUITE) --json out/parity.json --junit out/parity.xml
	$(PY) -m parity drift --every-type --json out/drift.json

test: $(READY)
	$(PY) -m pytest -n $(JOBS)

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright

format: $(READY)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:
	rm -rf $(VENV) out build dist *.egg-info

$(READY): pyproject.toml constraints-cpu.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
ifeq ($(KIND),cuda)
	$(PIP) -e '.[jax,torch,cuda,parity,bench,dev]'
else
	$(PIP) -c constraints-cpu.txt -e '.[jax,torch,parity,bench,dev]'
endif
	touch $@
