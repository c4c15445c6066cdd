# make run     makes .venv, installs requirements.txt and starts the app on http://localhost:8501
# make check   ruff, pyright and the quick tests: before every commit
# make test    every test, browser and slow ones included

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
INSTALL := $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends
# Two tests at a time, each on one core: on two cores that is faster than one test on both. Tests of a file stay together,
# since they share what is trained for them; files come in the order that tests/conftest.py gives them. WORKERS=0 runs one
# after the other, with all output.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Where it is set, as images of containers do, each process that a test starts would compile the whole project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run check test bench bench-scaling bench-ui bench-map tasks bench-storage bench-data bench-duplicates story mistake-story bench-emoji bench-trust bench-trust-removal bench-labels memorised trust trust-gpu trust-grid window seeds faults data screenshots browser clean bench-many

run: .venv/app.stamp
	$(BIN)/streamlit run app.py

# With room for what is soon garbage pyright takes a fifth less time.
check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	NODE_OPTIONS=--max-semi-space-size=128 $(BIN)/pyright
	$(PYTEST) -m "not slow and not browser and not gpu"

test: .venv/test.stamp browser
	$(PYTEST)

# The first table of docs/measurements.md.
bench: .venv/test.stamp
	$(BIN)/python -m tools.bench

# Every page and the usual clicks on 60,000 training images × 50 targets, in a browser, idle and while a run works; about
# five minutes. The images are those of Debian's package dataset-fashion-mnist, or of REPLAY_DATA_DIR. JSON=FILE keeps all.
bench-ui: .venv/test.stamp browser
	$(BIN)/python -m tools.bench_ui $(if $(JSON),--json $(JSON))

# The page Map on 60,000 images: page, lasso to gallery, hover, frames; about three minutes. JSON=FILE keeps all.
bench-map: .venv/test.stamp browser
	$(BIN)/python -m tools.bench_map $(if $(APP),--app $(APP)) $(if $(JSON),--json $(JSON))

# Keys on Triage and clicks on Duplicates, of 60,000 images in a browser; about three minutes. ARGS="OUTPUTS RUN" for a run
# that is there.
.PHONY: bench-triage
bench-triage: .venv/test.stamp browser
	$(BIN)/python -m tools.bench_triage $(ARGS)

# A table of 200 runs, and the lists of 50 of them; under a minute.
bench-many: .venv/test.stamp
	$(BIN)/python -m tools.bench_many

# What a person comes to do, in a real browser: clicks and seconds; about six minutes. APP=DIR drives another checkout.
tasks: .venv/test.stamp browser
	$(BIN)/python -m tools.tasks $(if $(APP),--app $(APP)) $(if $(JSON),--json $(JSON))

# What each replay mode takes on disk, in memory and in time; about five minutes.
bench-storage: .venv/test.stamp
	$(BIN)/python -m tools.bench_storage

# 100,000 images of 64 × 64 × 3 of one's own, from their files to the comparison of two runs.
bench-data: .venv/test.stamp
	$(BIN)/python -m tools.bench_data

# Duplicates among 60,000 images, every way, against all pairs; about ten minutes. ARGS="--folder DIR", of a folder that
# `python -m tools.emoji DIR` wrote: which distance finds what.
bench-duplicates: .venv/test.stamp
	$(BIN)/python -m tools.bench_duplicates $(ARGS)

# From a folder of images with wrong labels among them to scores that are proven; about fifteen minutes. Needs npm.
bench-emoji: .venv/test.stamp
	$(BIN)/python -m tools.bench_emoji

# A real folder, from the upload to the first gallery and the mislabelled files, in a real browser; npm fetches the images.
story: .venv/test.stamp browser
	$(BIN)/python -m tools.story

# From a wrong answer to wrong labels to a better model, clicked in a browser: the figures of docs/story.md; npm, too.
mistake-story: .venv/test.stamp browser
	$(BIN)/python -m tools.mistake_story $(ARGS)

# Replays and retrainings shared out among 1, 2, 4 and 8 GPUs, as many as there are; under ten minutes.
bench-scaling: .venv/test.stamp
	$(BIN)/python -m tools.bench_scaling --plot scaling.png

# The presets' agreement with retraining: about five minutes on two cores; half an hour on an H200, where the full
# Fashion-MNIST is at hand. And that of a grid of recipes (docs/trust.md): minutes on a GPU, hours on two cores.
trust: .venv/test.stamp
	$(BIN)/python -m tools.trust sample
trust-gpu: .venv/test.stamp
	$(BIN)/python -m tools.trust resnet9
trust-grid: .venv/test.stamp
	$(BIN)/python -m tools.grid

# Draws the recipes of ResNet-9 that docs/trust.md has in a table; a second.
.PHONY: frontier
frontier: .venv/test.stamp
	$(BIN)/python -m tools.grid --read docs/frontier-resnet9.jsonl --plot docs/frontier-resnet9.svg

# What do scores of an attribution window foretell? About ten minutes.
window: .venv/test.stamp
	$(BIN)/python -m tools.window

# Do the scores of four seeds of the sample agree, and what foretells other seeds? About half an hour.
seeds: .venv/test.stamp
	$(BIN)/python -m tools.seeds

# Scores against retraining, beside EK-FAC (also with conjugate gradients), SOURCE, DVEmb, TRAK, TracIn and gradients at the
# end; about forty minutes. Then the images that each method calls the most helpful are left out: half an hour more. What was
# computed stays in build/bench-trust, and what was killed goes on; ARGS="--again METHOD" measures one anew.
bench-trust: .venv-bench/pip.stamp
	.venv-bench/bin/python -m tools.bench_trust $(ARGS)
bench-trust-removal: .venv-bench/pip.stamp
	.venv-bench/bin/python -m tools.bench_trust --removal $(ARGS)

# Scores of TRAK, kronfluence, dattri and captum in the app, beside the exact ones; about five minutes. LOOK=folder keeps
# pictures of the pages.
.PHONY: show-others
show-others: .venv-bench/pip.stamp
	.venv-bench/bin/python -m tools.show_others $(if $(LOOK),--pictures $(LOOK))

# Each format of an export opened by the library that it is for: FiftyOne, Label Studio's SDK, Hugging Face's datasets.
.PHONY: test-exports
test-exports: .venv-exports/pip.stamp
	.venv-exports/bin/python -m pytest tests/test_exports.py

# Wrong labels found, beside cross-validation and cleanlab; about fifteen minutes.
bench-labels: .venv-bench/pip.stamp
	.venv-bench/bin/python -m tools.bench_labels

# Self-influence beside training again without the image, and its estimates; about fifteen minutes.
memorised: .venv/test.stamp
	$(BIN)/python -m tools.memorised

# Themes left out by retraining, beside what their scores say, for the sample's eight targets; about five minutes.
.PHONY: themes
themes: .venv/test.stamp
	$(BIN)/python -m tools.themes

# 30 kills, 100 corruptions, a full disk, a stopped server; about fifteen minutes. SEED=n for others.
faults: .venv/test.stamp
	$(BIN)/python -m tools.faults $(SEED)

# Makes the embedded data set again from Debian's package dataset-fashion-mnist.
data: .venv/app.stamp
	[ -d /usr/share/datasets/fashion-mnist ] || { $(INSTALL) dataset-fashion-mnist; }
	$(BIN)/python -m tools.make_sample

# The picture in docs/, from a real run in a real browser; LOOK=folder keeps those of every page.
screenshots: .venv/test.stamp browser
	$(BIN)/python -m tools.screenshots $(LOOK)

# Chromium without its windows takes a quarter less of the processor for each page; else the whole one does.
browser:
	@command -v chromium-headless-shell >/dev/null || { $(INSTALL) chromium-headless-shell; } || \
	command -v chromium >/dev/null || { $(INSTALL) chromium; }

.venv/pip.stamp:
	$(PYTHON) -m venv .venv || { $(INSTALL) python3-venv && $(PYTHON) -m venv .venv; }
	touch $@

.venv/app.stamp: .venv/pip.stamp requirements.txt
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

.venv/test.stamp: .venv/app.stamp requirements-dev.txt
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

# Apart from .venv: what the benchmarks compare with must not change what the app runs with.
.venv-exports/pip.stamp: requirements.txt requirements-exports.txt
	[ -x .venv-exports/bin/python ] || $(PYTHON) -m venv .venv-exports
	.venv-exports/bin/python -m pip install -q -r requirements-exports.txt
	touch $@

.venv-bench/pip.stamp: requirements.txt requirements-bench.txt
	[ -x .venv-bench/bin/python ] || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -r requirements-bench.txt
	touch $@

clean:
	rm -rf .venv .venv-bench .venv-exports
