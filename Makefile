# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-viewer viewer walks bench guard system lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-output
# What Qt and OpenGL need on Debian, and a display for machines without one.
VIEWER_PACKAGES := xvfb xauth libegl1 libgl1 libgl1-mesa-dri libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxkbcommon-x11-0
HAVE_DISPLAY := command -v xvfb-run >/dev/null && { ! command -v dpkg >/dev/null || dpkg -s $(VIEWER_PACKAGES) >/dev/null 2>&1; }
# Debian packages that the tests use: a real browser, to look at the report with, DICOM tools that we did not
# write, a database server and a message broker.
SYSTEM_PACKAGES := chromium chromium-driver dcmtk dicom3tools plastimatch postgresql mosquitto
SYSTEM_COMMANDS := chromium chromedriver dcmdump dciodvfy plastimatch psql mosquitto
export INSPECTION_DATA ?= $(abspath ../shared/data)

help:
	@echo "make demo    set up, fit a detector on real solar cells, screen others, open the report"
	@echo "make test    set up and pass the tests, the viewer's among them where a display can be had"
	@echo "make test-viewer  pass the viewer's tests alone"
	@echo "make viewer  set up and open napari with the plugin and a sample"
	@echo "make walks   play both walks of docs/viewer.md without a display, and make their pictures anew"
	@echo "make bench   measure speed and memory side by side with others (an hour)"
	@echo "make guard   count operations, calls and bytes, and compare them with what is expected"
	@echo "make setup   the environment alone, in $(VENV)"
	@echo "make lint    style, types and import rules alone"
	@echo "make clean   remove the environment and what the demo wrote"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory install-packages PACKAGES=python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[samples,dev,cluster,postgres]"
	@touch $@

demo: setup
	$(BIN)/inspection demo --out $(DEMO_OUT)

# The viewer's tests first, in one process of their own (docs/decisions/0044); then all others, whose workers share the
# cores, so each computes with one thread. The last line of output is pytest's own summary, the status that of both.
test: setup system
	@if [ "$$(uname)" = Linux ] && { $(HAVE_DISPLAY) || $(MAKE) --no-print-directory install-packages PACKAGES="$(VIEWER_PACKAGES)" OPTIONAL=1; } \
			&& $(HAVE_DISPLAY); then \
		$(MAKE) --no-print-directory test-viewer || failed=1; \
	else echo "The viewer's tests are left out: a display without a screen needs $(VIEWER_PACKAGES)."; fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --ignore tests/plugins -p no:pytest-qt && [ -z "$$failed" ]

# napari and Qt are large, so those who do not need them are spared them.
$(VENV)/viewer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[viewer]" "pytest-qt>=4.5"
	@touch $@

viewer: $(VENV)/viewer
	$(BIN)/python -m napari_inspection

# One process: napari's windows do not share a display well.
test-viewer: $(VENV)/viewer display
	@OMP_NUM_THREADS=1 xvfb-run -a -s '-screen 0 1600x1200x24' $(BIN)/python -m pytest tests/plugins

walks: $(VENV)/viewer display
	xvfb-run -a -s '-screen 0 1600x1200x24' $(BIN)/python docs/walks.py

# Every script in benchmarks/ by itself; one that fails does not keep the others from running, and one that lacks what it
# needs says so. Then the page's tables, at the end, since the scripts say which commit they measured and whether files
# differ from it. What is left out keeps the page's figures, so results of an earlier run are cleared away first. The
# viewer's are measured where it is installed, on a display of their own. The peer's Python is told by
# benchmarks/accuracy/peer_patchcore.py.
DEVICE ?= cpu
export INSPECTION_PEER ?= $(wildcard $(abspath peer/bin/python))
BENCHMARKS := $(filter-out benchmarks/common.py benchmarks/tables.py,$(wildcard benchmarks/*.py))
$(VENV)/bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $@

bench: $(VENV)/bench
	@$(BIN)/python -c 'import napari' 2>/dev/null && ! { $(HAVE_DISPLAY); } && \
		$(MAKE) --no-print-directory install-packages PACKAGES="$(VIEWER_PACKAGES)" OPTIONAL=1 || true
	@rm -f benchmark-results/*.json
	@status=0; number=0; all=$$(date +%s); for script in $(BENCHMARKS); do \
		number=$$((number + 1)); begun=$$(date +%s); \
		echo "== $$(date +%H:%M:%S) $$script, $$number of $(words $(BENCHMARKS)), $$(((begun - all) / 60)) minutes after the start"; \
		on=; case $$script in *viewer*) command -v xvfb-run >/dev/null && on="xvfb-run -a -s '-screen 0 1600x1200x24'";; esac; \
		eval $$on $(BIN)/python $$script --device $(DEVICE) || { echo "== $$script failed"; status=1; }; \
		echo "== $$script took $$(($$(date +%s) - begun)) s"; \
	done; $(BIN)/python benchmarks/tables.py || status=1; exit $$status

guard: setup
	$(BIN)/python benchmarks/guard.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: display
display:
	@$(HAVE_DISPLAY) || $(MAKE) --no-print-directory install-packages PACKAGES="$(VIEWER_PACKAGES)"

system:
	@(for c in $(SYSTEM_COMMANDS); do command -v $$c >/dev/null || exit 1; done) || \
		$(MAKE) --no-print-directory install-packages PACKAGES="$(SYSTEM_PACKAGES)" OPTIONAL=1

# Installs Debian packages where that is possible without asking, else says how; OPTIONAL=1 goes on without them.
.PHONY: install-packages
install-packages:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null \
			|| { echo "Could not install $(PACKAGES)."; [ -n "$(OPTIONAL)" ]; }; \
	else \
		echo "Please install (on Debian): sudo apt-get install $(PACKAGES)"; [ -n "$(OPTIONAL)" ]; \
	fi

clean:
	rm -rf $(VENV) $(DEMO_OUT) benchmark-results
