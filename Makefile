# Two commands do all the set-up: `make demo` and `make test`. Both create .venv from constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The demo reads videos from VIDEOS; left empty, it makes synthetic talking faces first.
VIDEOS ?=
# mae_dfer, svfap or hicmae
METHOD ?= mae_dfer
OUT    ?= demo$(if $(filter-out mae_dfer,$(METHOD)),_$(METHOD))$(if $(VIDEOS),_videos)
# Tests run in this many processes of one thread each.
JOBS   ?= 2

.PHONY: help venv demo docs lint test test-slow test-faults test-slurm test-remote test-docs test-gpu bench bench-guard clean
help:
	@echo "make demo [METHOD=mae_dfer|svfap|hicmae] [VIDEOS=dir]"
	@echo "                        the whole road: videos -> shards -> pretraining -> report.html -> probes and finetuning"
	@echo "make test               lint and the default test suite"
	@echo "make test-slow          the tests marked slow    make test-gpu  those that need a GPU"
	@echo "make test-slurm         the project's own jobs under a real Slurm, which it installs (Debian or Ubuntu, root)"
	@echo "make test-faults        damaged files, full disks, killed processes; ends with a table"
	@echo "make test-remote        shards on a web server and on a real S3 server, which it installs"
	@echo "make test-docs          every command and piece of code of the guides' long pages"
	@echo "make bench              benchmarks, with a table in benchmarks/results/"
	@echo "make bench-guard        the short ones with ratios; fails when one has fallen (benchmarks/guard.yaml)"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

venv: $(VENV)/.installed

demo: venv
	$(BIN)/ssl-affect demo --method $(METHOD) --out $(OUT) $(if $(VIDEOS),--videos "$(VIDEOS)")

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not gpu and not faults and not docs" -n $(JOBS) --dist worksteal

test-slow: venv
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m "slow and not gpu and not slurm" --timeout=1800

# A real Slurm of two virtual nodes per process; bounded, and its daemons are stopped however the tests end.
test-slurm: venv
	bash tests/slurm/install.sh
	OMP_NUM_THREADS=1 timeout --signal=INT 900 $(BIN)/python -m pytest -q tests/slurm -m slurm -n 3 --dist worksteal

test-faults: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m faults tests/faults --timeout=480

# The tests with a real S3 server; what they install takes longer than they do.
test-remote: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[s3test]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/ssl_affect/test_storage_s3.py tests/ssl_affect/test_storage.py \
		tests/ssl_affect/test_storage_cache.py tests/ssl_affect/test_storage_commands.py \
		"tests/docs/test_docs.py::test_blocks_of_a_page_run[docs/remote-shards.md]"

# The other pages are part of `make test`.
test-docs: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/docs -m docs -n $(JOBS) --dist worksteal --timeout=900

test-gpu: venv
	$(BIN)/python -m pytest -m gpu --timeout=1800

# Into site/; reading it needs no network. Served by `python -m http.server -d site` it can be searched too.
docs: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

bench: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks.run

bench-guard: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks.run --quick --only loader build extract step --out benchmarks/results/guard
	$(BIN)/python -m benchmarks.guard benchmarks/results/guard/benchmarks.json

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
