# Shutterless: the verbs. `make` alone lists them. For GNU make 3.81 and newer, on macOS and Linux.
#
# Everything is installed into .venv from the hash-pinned locks in requirements/, once: each step leaves a stamp in
# .venv/made, and runs again only when its lock changes. Extras add to each other, and none removes another's packages.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help local test check images invoke base synth doctor deploy destroy rehearse
.PHONY: train export publish bench bench-cold bench-servers lock install-export kernels clean

BIN := .venv/bin
MADE := .venv/made
UV := $(BIN)/uv
UV_INSTALL := $(UV) pip install --python $(BIN)/python --no-deps
EMULATOR := var/rehearsal/venv/made
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--excludes requirements/torch.txt --custom-compile-command 'make lock'

export UV_COMPILE_BYTECODE_TIMEOUT := 600

PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3.14 python3)
TORCH_WANTED := $(or $(TORCH),-r requirements/torch.txt)

help: ## this list
	@echo 'make VERB [NAME=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'MODEL=name chooses the bundle, PYTHON=path the interpreter, ARGS="..." goes to the command behind the verb.'
	@echo 'The command line that the verbs stand on is $(BIN)/shutterless (see --help).'

# HOST counts only when typed: some shells and build environments export a HOST of their own.
local: $(MADE)/onprem kernels ## the server on your machine, with the shipped model   [PORT=8000 HOST=127.0.0.1 MODEL=name]
	@PYTHONDONTWRITEBYTECODE= exec $(BIN)/shutterless serve $(if $(MODEL),--model '$(MODEL)') $(if $(PORT),--port '$(PORT)') \
		$(if $(filter command,$(origin HOST)),--host '$(HOST)') $(ARGS)

test: $(MADE)/dev $(EMULATOR) kernels ## all tests that this machine can run; what it could not run is listed   [REQUIRE=all]
	@$(MAKE) --silent --no-print-directory install-export || echo 'torch is missing: the tests that need it will not run.' >&2
	@REQUIRE='$(REQUIRE)' $(BIN)/python -m pytest $(ARGS)

check: $(MADE)/dev install-export ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

train: install-export ## fine-tune a network on a folder of class folders   [ARGS="--help"]
	@exec $(BIN)/shutterless train $(ARGS)

export: install-export ## trained weights -> graph, parity, quantisation, report: a bundle   [ARGS="--help"]
	@exec $(BIN)/shutterless export $(ARGS)

publish: $(MADE)/export ## a bundle to S3, under a version that never changes   [ARGS="--help"]
	@exec $(BIN)/shutterless publish $(ARGS)

images: $(MADE)/project ## the functions' container images   [MODEL=name BASE_IMAGE=image DB_CA=file.pem SIGNING_KEY=file.pem ...]
	@exec $(BIN)/shutterless images $(if $(MODEL),--model '$(MODEL)') $(if $(BASE_IMAGE),--base-image '$(BASE_IMAGE)') \
		$(if $(DB_CA),--db-ca '$(DB_CA)') $(if $(SIGNING_KEY),--signing-key '$(SIGNING_KEY)') \
		$(if $(PLATFORM),--platform '$(PLATFORM)') $(ARGS)

invoke: $(MADE)/project ## predict in its container, asked once; needs no credentials   [MODEL=name EVENT=file PORT=9000]
	@exec $(BIN)/shutterless invoke '$(or $(EVENT),events/predict.json)' $(if $(MODEL),--model '$(MODEL)') \
		$(if $(PORT),--port '$(PORT)') $(ARGS)

base: $(MADE)/project ## a base image for `make images` where no container registry can be reached: Debian, as root
	@exec $(BIN)/shutterless images base

synth: $(MADE)/cdk ## the CloudFormation templates; needs no credentials and no Docker   [STAGE=dev MODEL=name SIGNING_KEY=file.pem]
	@exec $(BIN)/shutterless synth '$(or $(STAGE),dev)' $(if $(MODEL),--model '$(MODEL)') \
		$(if $(SIGNING_KEY),--signing-key '$(SIGNING_KEY)') $(ARGS)

deploy: $(MADE)/cdk ## into your AWS account, and tried there   [STAGE=dev MODEL=name SIGNING_KEY=file.pem ARGS=--without-page]
	@exec $(BIN)/shutterless deploy '$(or $(STAGE),dev)' $(if $(MODEL),--model '$(MODEL)') \
		$(if $(SIGNING_KEY),--signing-key '$(SIGNING_KEY)') $(ARGS)

doctor: $(MADE)/cdk ## what a deploy lacks on this machine and in the account, and what mends it   [STAGE=dev]
	@exec $(BIN)/shutterless doctor '$(or $(STAGE),dev)' $(ARGS)

destroy: $(MADE)/cdk ## take it away again   [STAGE=dev CONFIRM=prod]
	@exec $(BIN)/shutterless destroy '$(or $(STAGE),dev)' $(if $(CONFIRM),--confirm '$(CONFIRM)') $(ARGS)

rehearse: $(MADE)/onprem $(MADE)/cdk $(EMULATOR) ## a real deploy onto an emulator of AWS, driven, looked at, destroyed   [KEEP=1 BASE_IMAGE=image]
	@KEEP='$(KEEP)' BASE_IMAGE='$(BASE_IMAGE)' exec $(BIN)/python -m rehearsal $(ARGS)

bench: $(MADE)/bench kernels ## the server's start and its cost per picture, against decode + preprocess + inference   [MODEL=name]
	@$(BIN)/python -m benchmarks.predict $(if $(MODEL),--model '$(MODEL)') $(ARGS)

bench-cold: $(MADE)/bench install-export ## cold and warm in containers, beside a handler as they are usually written   [BASE_IMAGE=image]
	@$(BIN)/python -m benchmarks.cold $(if $(BASE_IMAGE),--base-image '$(BASE_IMAGE)') $(ARGS)

bench-servers: $(MADE)/bench kernels ## ours under load beside FastAPI + onnxruntime, BentoML, LitServe and MLServer   [FULL=1 MODEL=name]
	@$(BIN)/python -m benchmarks.servers $(if $(MODEL),--model '$(MODEL)') $(if $(FULL),--full) $(ARGS)

install-export: $(MADE)/export $(MADE)/torch ## what training and export need: torch, too   [TORCH="torch==... ..."]

# dev holds every extra, so it is solved first and rules the others: one version of a package, whatever is installed.
lock: $(MADE)/installer ## write requirements/*.txt anew from pyproject.toml   [ARGS=--upgrade]
	@$(COMPILE) --annotation-style line $(ARGS) pyproject.toml --extra dev -o requirements/dev.txt >/dev/null
	@for extra in onprem export infra bench; do \
		$(COMPILE) --no-annotate $(ARGS) pyproject.toml --extra $$extra --constraints requirements/dev.txt \
			-o requirements/$$extra.txt >/dev/null || exit 1; \
	done
	@for image in api inference; do \
		$(COMPILE) --no-annotate $(ARGS) pyproject.toml --extra lambda --constraints requirements/dev.txt \
			--excludes requirements/not-in-$$image.in -o requirements/$$image.txt >/dev/null || exit 1; \
	done
	@$(COMPILE) --no-annotate $(ARGS) --group installer -o requirements/installer.txt >/dev/null
	@$(COMPILE) --no-annotate $(ARGS) --group rehearsal -o requirements/rehearsal.txt >/dev/null
	@$(COMPILE) --no-annotate $(ARGS) --group base --no-deps -o requirements/base.txt >/dev/null
	@$(COMPILE) --no-annotate $(ARGS) --group compiler -o requirements/compiler.txt >/dev/null
	@for peer in benchmarks/peers/*/requirements.in; do \
		$(COMPILE) --no-annotate $(ARGS) "$$peer" -o "$${peer%.in}.txt" >/dev/null || exit 1; \
	done

clean: ## remove all that was made: .venv, var (results, pictures, trainings) and caches
	rm -rf shutterless/kernels/*.so* .venv var build dist cdk.out infra/node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Installing -----------------------------------------------------------------------------------------------------

$(MADE)/installer: requirements/installer.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(FIND_PYTHON); "$$found" -m venv --clear .venv; }
	@$(PIP) install --quiet --no-deps --require-hashes -r $<
	@mkdir -p $(@D) && touch $@

# A plain path instead of setuptools' import hook, which costs every start of Python 20 ms.
$(MADE)/project: pyproject.toml $(MADE)/installer
	@$(UV_INSTALL) --quiet --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

# Bytecode now: without it the server starts in twice the time, and where PYTHONDONTWRITEBYTECODE is set, every time.
$(MADE)/onprem $(MADE)/export $(MADE)/infra $(MADE)/bench $(MADE)/dev: $(MADE)/%: requirements/%.txt $(MADE)/project
	@$(UV_INSTALL) --require-hashes --only-binary :all: --compile-bytecode -r $<
	@touch $@

# Where it cannot be built, all runs without it.
kernels: ## our own kernels for onnxruntime, where this CPU can run them; local, test and bench do it, too   [CC=compiler]
	@shutterless/kernels/build

# Node comes with the Python packages; npm checks what it gets against the lock.
$(MADE)/cdk: infra/package-lock.json $(MADE)/infra
	@cd infra && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent
	@touch $@

$(MADE)/torch: requirements/torch.txt | $(MADE)/export
	@$(PIP) install $(TORCH_WANTED)
	@touch $@
ifneq ($(TORCH),)
.PHONY: $(MADE)/torch
endif

# The emulator pins botocore, so it is no package of .venv.
$(EMULATOR): requirements/rehearsal.txt $(MADE)/installer
	@$(UV) venv --quiet --clear --python $(BIN)/python $(@D)
	@$(UV) pip install --python $(@D)/bin/python --no-deps --require-hashes --only-binary :all: --compile-bytecode -r $<
	@touch $@

# Sets $found to the first of PYTHONS that is new enough and can make an environment, or says what is missing.
define FIND_PYTHON
found=; old=; \
for python in $(PYTHONS); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	if "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then found=$$python; break; fi; \
	old=$$python; \
done; \
[ -n "$$found" ] || { \
	if [ -n "$$old" ]; then \
		echo "$$old cannot make a virtual environment. Install its venv module (Debian, Ubuntu: apt-get install python3-venv)."; \
	else \
		echo 'Shutterless needs Python 3.11 or newer; none of these is: $(PYTHONS). Install one, or name it: PYTHON=path.'; \
	fi >&2; exit 1; }
endef
