# `make demo`, `make test` and `make slow` each set up .venv if it is missing or out of date, then run.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: install demo test slow types notebooks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[autoencoders,dev,diffusers,hdf5,huggingface,notebooks,pipelines,tables,text]"
	@touch $@

demo: install
	$(RUN) main.py --mode train
	$(RUN) main.py --mode sample --config.sampling.solver=pc --config.sampling.num_steps=250
	$(RUN) main.py --mode sample --config.sampling.solver=ode
	$(RUN) main.py --mode likelihood
	$(RUN) main.py --mode compare
	$(RUN) -m score_sde.evaluation.summary runs/digits

test: install
	$(RUN) -m pytest

# What takes too long for every day: every key of the configuration with every kind of value, runs killed twenty times.
slow: install
	$(RUN) -m pytest -m slow
	KILLS=20 $(RUN) -m pytest tests/test_kill.py

# Each notebook asserts what it shows; nothing is written. Two at a time with a thread each: networks so small gain nothing by more.
notebooks: install
	printf '%s\n' docs/notebooks/*.ipynb | OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(VENV)/bin/jupyter-execute

# mypy, which finds the rooms of score_sde through links to them.
ROOMS := $(patsubst %/,%,$(filter-out score_sde/ tests/ benchmarks/ docs/ build/ runs/ datasets/,$(wildcard */)))

types: install
	@rm -rf .types && mkdir -p .types/score_sde
	@for room in $(ROOMS); do ln -s ../../$$room .types/score_sde/$$room; done
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) runs .types .pytest_cache .mypy_cache .ruff_cache
