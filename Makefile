# What one does with a checkout. Everything lives in .venv; PYTHON names the Python that makes it.
.POSIX:
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet

help:
	@echo 'make install   create .venv with llmfleet and what its tests need'
	@echo 'make demo      a small fleet on this machine, from plan to down, on a real model'
	@echo 'make test      lint, types, unit tests and the lab'
	@echo 'make lint      ruff and mypy'
	@echo 'make unit      the fast tests: no network, no root'
	@echo 'make live      real Envoy, SSH servers and supervisors on the loopback address'
	@echo 'make accuracy  estimates against what others measured; writes docs/validation.md'
	@echo 'make bench     how long commands take beside a bare Python, and planning with large fleets'
	@echo 'make bench-planner  what planning costs: ten thousand nodes, the example, pipelines over unequal nodes'
	@echo 'make bench-helix HELIX=DIR HELIX_PYTHON=…  our placements beside Helix'\''s in its own simulator, an hour'
	@echo 'make bench-router  what the router costs, how it shares and what it survives, beside others'
	@echo 'make bench-ssh  500 hosts over SSH, beside pyinfra and Ansible, in some minutes'
	@echo 'make bench-simulate  what the simulation costs, and formula against simulation, in a minute'
	@echo 'make bench-prefix  real vLLM on CPU with its prefix cache behind our router and others (after make lab)'
	@echo 'make bench-rehearse  a rehearsal beside the real engine that it simulates (after make lab)'
	@echo 'make bench-long    short prompts beside long ones in a real engine, with a plan'\''s threshold and without'
	@echo 'make bench-serve   the same engine behind the default path and behind Ray Serve (after make lab)'
	@echo 'make fuzz-router   its classifier against a JSON parser, 200 000 bodies'
	@echo 'make check-exports router show --format in HAProxy, nginx, vllm-router, smg and LiteLLM'
	@echo 'make lab       real hosts in network namespaces; needs root, says so where it is missing'
	@echo 'make lab-long  what takes minutes more there: Ray Serve on several hosts, lost hosts under Ray, watch and up'
	@echo
	@echo 'PYTHON=python3.12 before or after the target chooses another Python (3.11 or newer).'

install: $(VENV)/.test

demo: $(VENV)/.demo
	@$(BIN)/python examples/laptop/demo.py

# Three minutes of downloads and compiling for the lab's hosts go on beside the tests that do not need them. What may go
# wrong there the lab says itself.
test: lint
	@mkdir -p .cache && $(BIN)/python -m tests.lab.engines > .cache/engines.log 2>&1 & \
	  building=$$!; ended=0; $(MAKE) unit live || ended=$$?; wait $$building || true; exit $$ended
	@$(MAKE) lab

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest tests/unit -m "not live" -n 2

live: $(VENV)/.test
	@$(BIN)/python -m tests.packages
	$(BIN)/python -m pytest tests/unit -m live -n 2 -rs

.PHONY: bench
bench: $(VENV)/.test
	@$(BIN)/python benchmarks/startup.py

bench: bench-planner

bench-planner: $(VENV)/.test
	@$(BIN)/python benchmarks/planner.py

bench-helix: $(VENV)/.test
	@$(BIN)/python benchmarks/helix.py $(HELIX) $(HELIX_PYTHON)

bench-router: $(VENV)/.test
	@$(BIN)/python benchmarks/router.py

bench-ssh: $(VENV)/.test
	@$(BIN)/python benchmarks/ssh_scale.py

bench-simulate: $(VENV)/.test
	@$(BIN)/python benchmarks/simulate.py

.PHONY: bench-long bench-prefix bench-rehearse bench-serve fuzz-router check-exports
bench-prefix: $(VENV)/.test
	@$(BIN)/python benchmarks/prefix.py

bench-long: $(VENV)/.test
	@$(BIN)/python benchmarks/long_prompts.py

bench-serve: $(VENV)/.test
	@$(BIN)/python benchmarks/serve.py

bench-rehearse: $(VENV)/.test
	@$(BIN)/python benchmarks/rehearse_real.py

fuzz-router: $(VENV)/.test
	@$(BIN)/python benchmarks/fuzz_classifier.py

check-exports: $(VENV)/.test
	@$(BIN)/python benchmarks/check_exports.py

# Two labs beside one another, each with hosts of its own. What the first line cannot build, the tests name and skip.
lab: $(VENV)/.test
	@$(BIN)/python -m tests.lab.engines || true
	$(BIN)/python -m pytest tests/lab -m "not long" -n 2 --dist loadfile -rs

lab-long: $(VENV)/.test
	$(BIN)/python -m pytest tests/lab -m long -rs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "llmfleet needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make install PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A stamp is newer than what it was made from: nothing is installed twice. The tests' environment has all of the demo's.
# Compiled here, so that commands start fast where Python is told to write no byte code.
COMPILE = $(BIN)/python -m compileall -q cli planner launch
$(VENV)/.demo: pyproject.toml constraints.txt $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demo]'
	$(COMPILE)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[test]'
	$(COMPILE)
	@touch $@ $(VENV)/.demo

accuracy: $(VENV)/.test
	$(BIN)/python -m tests.accuracy

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: bench bench-helix bench-planner bench-router bench-simulate help install demo test lint unit live lab lab-long accuracy clean bench-ssh
