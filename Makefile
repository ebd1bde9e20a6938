# Every target sets up what it needs: Python >= 3.11, git and make are enough.
PYTHON ?= python3
PRESET ?= classroom
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
export HETLIB_DATA ?= $(CURDIR)/data
BIN = .venv/bin

.PHONY: reproduce test lab notebooks exercises bench report clean

reproduce: .venv/ready  ## run every notebook and report
	$(BIN)/hetlib reproduce --preset $(PRESET) --jobs $(JOBS)
	$(BIN)/hetlib report

test: .venv/ready  ## lint, types, every test, every notebook at the smoke preset
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lab: .venv/ready  ## open the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks

notebooks: .venv/ready  ## bring notebooks/*.ipynb up to date with notebooks/text/*.py, outputs included
	$(BIN)/hetlib notebooks --jobs $(JOBS)

exercises: .venv/ready  ## write exercise and solution notebooks into build/
	$(BIN)/hetlib exercises

bench: .venv/ready  ## speed and memory as ratios
	$(BIN)/python -m benchmarks

report: .venv/ready  ## runs/report.html and the tables of papers.md
	$(BIN)/hetlib report

clean:  ## remove what was built or run; keep .venv, data and results
	rm -rf build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find hetlib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hetlib needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[notebooks,test]"
	@touch $@
