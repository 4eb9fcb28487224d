# Every target sets up what it needs: a virtual environment in .venv and the packages in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := code

.DEFAULT_GOAL := help
.PHONY: help demo test test-long families lint eval-emoji eval-plain train-vit train-rn train-plain bench thumbnails \
	images notebooks check-notebooks check-readme lab evaluate check-evaluation report page page-serve browser clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/pip install -q -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/pip install -q -r requirements-dev.txt
	@touch $@

$(VENV)/.page: requirements-page.txt $(VENV)/.run
	$(BIN)/pip install -q -r requirements-page.txt
	@touch $@

demo: $(VENV)/.run ## explain a scene with both embedded models, into results/demo/
	$(BIN)/python code/explain.py "Images/car&bicycle&tree.png" "a car" "a bicycle" "a tree" \
	  --out results/demo/demo.png

test: $(VENV)/.dev ## run the test suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

browser: code/page/node_modules ## get a headless browser, and with it the tests that look at pages
	cd tests/browser && npm install --silent --no-audit --no-fund && node start.mjs || \
	  { rm -rf node_modules; exit 1; }

test-long: $(VENV)/.dev ## fuzz, break and exhaust it for half an hour; the outcomes into tests/README.md
	$(BIN)/python tests/long

families: $(VENV)/.dev ## how every pretrained model of open_clip is explained, into results/families.csv
	$(BIN)/python tests/long/every_tag.py

check-readme: $(VENV)/.ray ## run README's commands in a fresh clone: what it ships must stay
	$(BIN)/python tests/long/fresh_clone.py

evaluate: $(VENV)/.run ## measure every method on the embedded models, into results/evaluation/
	$(BIN)/python -m evaluation
	$(BIN)/python -m evaluation.map_use
	$(BIN)/python -m evaluation.text

check-evaluation: $(VENV)/.run ## the same on a few scenes, into a temporary folder
	folder=$$(mktemp -d) && $(BIN)/python -m evaluation --models ViT-plain RN-plain SigLIP-emoji \
	  --scenes 8 --faithfulness 2 --sanity 2 \
	  --methods "last grad" "all grads" gradcam attention GradCAM LayerCAM centre random edges \
	  --output $$folder --runs $$folder/runs && \
	  $(BIN)/python -m evaluation.map_use --choose 4 --judge 4 --output $$folder && \
	  $(BIN)/python -m evaluation.text --pairs 8 --output $$folder && rm -r $$folder

notebooks: $(VENV)/.run ## execute all notebooks and write their figures into results/
	$(BIN)/python code/notebooks/execute.py

check-notebooks: $(VENV)/.run ## execute them into a temporary folder; all figures must be written
	folder=$$(mktemp -d) && $(BIN)/python code/notebooks/execute.py --check $$folder && rm -r $$folder

lab: $(VENV)/.run ## open JupyterLab on the notebooks
	cd code/notebooks && ../../$(BIN)/jupyter lab

lint: $(VENV)/.dev ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

eval-emoji: $(VENV)/.run ## measure ViT-emoji and RN-emoji: zero-shot top-1 and pointing
	$(BIN)/python -m evaluation.embedded_models ViT-emoji
	$(BIN)/python -m evaluation.embedded_models RN-emoji

eval-plain: $(VENV)/.run ## measure ViT-plain, RN-plain and SigLIP-emoji
	$(BIN)/python -m evaluation.embedded_models ViT-plain
	$(BIN)/python -m evaluation.embedded_models RN-plain
	$(BIN)/python -m evaluation.embedded_models SigLIP-emoji

train-vit: $(VENV)/.run ## train ViT-emoji (resumes; hours on a CPU)
	$(BIN)/python -m embedded.train ViT-emoji

train-rn: $(VENV)/.run ## train RN-emoji
	$(BIN)/python -m embedded.train RN-emoji

train-plain: $(VENV)/.run ## train ViT-plain, RN-plain and SigLIP-emoji (minutes on a GPU)
	$(BIN)/python -m embedded.train ViT-plain RN-plain SigLIP-emoji --workers $$(nproc)

$(VENV)/.ray: requirements-ray.txt $(VENV)/.run
	$(BIN)/pip install -q -r requirements-ray.txt
	@touch $@

# LeGrad needs an open_clip of 2023: both get a folder of their own.
$(VENV)/legrad: $(VENV)/.dev
	$(BIN)/pip install -q --no-deps --target $@ legrad_torch==1.1 open_clip_torch==2.23.0 einops
	@touch $@

bench: $(VENV)/legrad $(VENV)/.ray ## speed and memory of every method, into results/benchmarks/
	$(BIN)/python benchmarks/speed.py --output results/benchmarks/speed.csv
	$(BIN)/python benchmarks/rivals.py --output results/benchmarks/rivals.csv
	$(BIN)/python benchmarks/anybody.py --output results/benchmarks/anybody.csv
	$(BIN)/python benchmarks/growth.py --output results/benchmarks/growth.csv
	$(BIN)/python benchmarks/throughput.py --output results/benchmarks/throughput.csv
	$(BIN)/python benchmarks/folder.py --output results/benchmarks/folder.csv
	$(BIN)/python benchmarks/plot.py

report: $(VENV)/.dev ## set CLIP_Explainability.pdf and README's numbers from results/
	$(BIN)/python report/build.py
	$(BIN)/python report/readme.py

code/page/node_modules: code/page/package.json
	cd code/page && npm install --silent --no-audit --no-fund
	@touch $@

page: $(VENV)/.page code/page/node_modules ## write the page that runs the models in the browser, into build/page/
	$(BIN)/python -m page.build

page-serve: $(VENV)/.page code/page/node_modules ## write it and open it
	$(BIN)/python -m page.build --serve

thumbnails: $(VENV)/.run ## draw the thumbnails of the table of methods
	$(BIN)/python code/thumbnails.py

images: $(VENV)/.run ## draw the emoji scenes of Images/ again
	$(BIN)/python -m embedded.make_images

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
