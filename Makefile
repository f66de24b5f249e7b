# demo: train and register a model, here. test: everything, on a real Slurm. bench: side by side with what else there is.
# chaos: a longer campaign of faults than the tests' own, make chaos SEED=7 CASES=200.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo install test check bench chaos clean

demo: $(VENV)/.train
	@$(VENV)/bin/fairlead launch experiment=digits

install: $(VENV)/.train

test: $(VENV)/.dev
	@tests/run

check: $(VENV)/.dev
	@tests/run --lint-only

bench: $(VENV)/.dev
	@tests/benchmarks/run

chaos: $(VENV)/.dev
	@tests/chaos/run $(if $(SEED),--seed $(SEED)) $(if $(CASES),--cases $(CASES))

$(VENV)/.train: pyproject.toml constraints.txt
	@echo "installing into $(VENV): torch, mlflow and what they need (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Fairlead needs Python 3.11 or newer; call make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[train,tracking,search]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@$(PIP) -e '.[train,tracking,search,deepspeed,huggingface,sql,onnx,tensorboard,dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs
