# make            builds bin/lapis
# make demo       trains a model on a server of its own, as a user would
# make test       what must pass: Go with the race detector, unmodified clients, crashes
# make lint       gofmt, go vet, staticcheck, govulncheck
# make bench      the figures of docs/benchmarks.md; make figures, the quick ones
# make soak       the long forms of the tests
# make fuzz       each fuzz target for FUZZTIME
#
# All that these need besides Go, Python 3.11 and a C compiler (for the race
# detector) is put into .tools, at the versions pinned in tools/go.mod and
# tests/requirements-*.txt.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := build

# Results of test runs, as JUnit files.
RESULTS := .cache/results

PYTHON   ?= python3
FUZZTIME ?= 20s

# uv builds the environments of jobs and of the test clients. One on the PATH
# is used as it is.
UV := $(or $(LAPIS_UV),$(shell command -v uv 2>/dev/null),$(CURDIR)/.tools/uv/bin/uv)
export LAPIS_UV := $(UV)

GOTOOL := go tool -modfile=tools/go.mod
RACE   := $(shell command -v gcc >/dev/null 2>&1 && echo -race)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The runner of native models loads libraries, so it is a program of its own;
# lapis carries it along.
RUNNER := backend/runtimes/embedded/lapis-runner.gz

.PHONY: build
build:
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.stamp=$(VERSION)" -o bin/lapis-runner ./cmd/lapis-runner
	@gzip -9 -n -c bin/lapis-runner > bin/lapis-runner.gz
	@cmp -s bin/lapis-runner.gz $(RUNNER) || mv bin/lapis-runner.gz $(RUNNER); rm -f bin/lapis-runner.gz
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.stamp=$(VERSION)" -o bin/lapis ./cmd/lapis

.PHONY: demo
demo: build $(UV)
	@scripts/demo.sh

# All parts run, also after one that failed; the sum comes last.
PARTS := test-go test-sdk test-sdk-1.15 test-az test-java test-corpus test-differential test-serving test-crash

.PHONY: test
test:
	@rm -rf $(RESULTS); status=0; \
	for part in $(PARTS); do $(MAKE) --no-print-directory $$part || status=1; done; \
	$(PYTHON) tests/tally.py $(RESULTS) && exit $$status

.PHONY: test-go
test-go: $(UV) .tools/sdk/ready
	@mkdir -p $(RESULTS)
	@[ -n "$(RACE)" ] || echo "No C compiler found: the Go tests run without the race detector. Remedy: apt-get install gcc libc6-dev"
	LAPIS_TEST_PYTHON=$(CURDIR)/.tools/sdk/bin/python CGO_ENABLED=$(if $(RACE),1,0) $(GOTOOL) gotestsum --format pkgname-and-test-fails --junitfile $(RESULTS)/go.xml -- $(RACE) -timeout 15m ./...

.PHONY: test-sdk
test-sdk: build .tools/sdk/ready
	tests/run.sh .tools/sdk $(RESULTS)/sdk.xml tests/sdk $(ARGS)

# The same walk with the oldest SDK that is still in use; MLflow's own client is
# the same in both, and so is what the server does with deployments.
.PHONY: test-sdk-1.15
test-sdk-1.15: build .tools/sdk-1.15/ready
	tests/run.sh .tools/sdk-1.15 $(RESULTS)/sdk-1.15.xml tests/sdk --ignore-glob '*/test_mlflow*' --ignore tests/sdk/test_online_deploy.py --ignore tests/sdk/test_online_watch.py --ignore tests/sdk/test_online_container.py $(ARGS)

.PHONY: test-crash
test-crash: build .tools/sdk/ready
	tests/run.sh .tools/sdk $(RESULTS)/crash.xml tests/crash $(ARGS)

# People's job files, as far as one machine can run them. The files lie beside
# the repository; without them this is skipped.
.PHONY: test-corpus
test-corpus: build .tools/sdk/ready
	tests/run.sh .tools/sdk $(RESULTS)/corpus.xml tests/corpus $(ARGS)

# The az command line, unmodified.
.PHONY: test-az
test-az: build .tools/sdk/ready .tools/az/ready
	LAPIS_AZ=$(CURDIR)/.tools/az/bin/az tests/run.sh .tools/sdk $(RESULTS)/az.xml tests/az $(ARGS)

# MLflow's Java client, where there are a JDK and Maven.
.PHONY: test-java
test-java: build .tools/sdk/ready
	@if command -v java >/dev/null 2>&1 && command -v mvn >/dev/null 2>&1; then $(MAKE) --no-print-directory .tools/java/ready; \
	else echo "No JDK or no Maven found: the test of MLflow's Java client is skipped. Remedy: apt-get install default-jdk-headless maven"; fi
	tests/run.sh .tools/sdk $(RESULTS)/java.xml tests/java $(ARGS)

.tools/java/ready: tests/java/pom.xml
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.tools/java
	touch $@

# The same random calls to MLflow's own server and to Lapis: a part of what
# make soak plays. LAPIS_SEED=7 LAPIS_SEQUENCES=1 plays one again.
.PHONY: test-differential
test-differential: build .tools/sdk/ready
	LAPIS_SEQUENCES=$${LAPIS_SEQUENCES:-60} LAPIS_MINUTES=$${LAPIS_MINUTES:-4} tests/run.sh .tools/sdk $(RESULTS)/differential.xml tests/differential -rP $(ARGS)

# The same scripts and models served by Lapis, by the Azure inference server and
# by MLflow: a part of what make soak asks. LAPIS_SEED=7 draws other requests.
.PHONY: test-serving
test-serving: build .tools/serving/ready
	LAPIS_CASES=$${LAPIS_CASES:-60} tests/run.sh .tools/serving $(RESULTS)/serving.xml tests/serving -rP $(ARGS)

.PHONY: soak
soak: build .tools/sdk/ready .tools/serving/ready
	LAPIS_SOAK_SECONDS=900 LAPIS_CASES=1500 tests/run.sh .tools/serving $(RESULTS)/soak-serving.xml tests/serving -rP $(ARGS)
	LAPIS_SEQUENCES=3000 tests/run.sh .tools/sdk $(RESULTS)/soak-differential.xml tests/differential -rP $(ARGS)
	LAPIS_CORPUS_JOBS=all tests/run.sh .tools/sdk $(RESULTS)/soak-corpus.xml tests/corpus $(ARGS)
	LAPIS_CRASHES=200 tests/run.sh .tools/sdk $(RESULTS)/soak.xml tests/crash -s $(ARGS)

.PHONY: bench
bench: build .tools/sdk/ready
	LAPIS_TEST_PYTHON=$(CURDIR)/.tools/sdk/bin/python go test -p 1 -run '^$$' -bench . -benchmem -timeout 60m ./...

# The same load on Lapis, MLflow's own server and FastTrackML, which stands in
# an environment of its own; takes half an hour of a quiet machine. QUICK=1
# takes a few minutes and leaves docs/benchmarks.md as it is.
.PHONY: bench-tracking
bench-tracking: build .tools/sdk/ready .tools/fasttrackml/ready
	go run ./bench/tracking -lapis bin/lapis -mlflow .tools/sdk/bin/mlflow -fasttrackml .tools/fasttrackml/bin/fml $(if $(QUICK),-quick,-write docs/benchmarks.md)

# The same load on Lapis and on the servers that people serve models with:
# the Azure inference server, MLServer, MLflow, gunicorn with Flask, and nginx
# where there is one. QUICK=1 takes ten minutes and leaves docs/benchmarks.md as it is.
.PHONY: bench-serving
bench-serving: build .tools/serving/ready .tools/mlserver/ready .tools/nginx/ready
	go run ./bench/serving -lapis bin/lapis -python .tools/serving/bin/python -mlserver .tools/mlserver/bin/mlserver -nginx "$$(cat .tools/nginx/ready)" $(if $(QUICK),-quick,-write docs/benchmarks.md) $(ARGS)

# The nginx of the system, or Debian's package unpacked here; none is no error.
.tools/nginx/ready:
	@mkdir -p .tools/nginx
	@if command -v nginx >/dev/null 2>&1; then command -v nginx >$@; \
	elif (cd .tools/nginx && apt-get download nginx && dpkg -x nginx_*.deb .) >/dev/null 2>&1; then echo "$(CURDIR)/.tools/nginx/usr/sbin/nginx" >$@; \
	else echo "No nginx found: it is left out. Remedy: apt-get install nginx-light"; : >$@; fi

# The figures that are quick to take: resources, submission, a queue of jobs.
.PHONY: figures
figures: build
	@mkdir -p $(RESULTS)
	go test -run '^$$' -bench 'ARMGet$$|ARMPut|Submit|Queue' -benchtime 3s -timeout 15m ./cmd/lapis | tee $(RESULTS)/figures.log | grep -E '^(figure:|FAIL|panic)'

.PHONY: fuzz
fuzz:
	@set -e; grep -rlE '^func Fuzz' --include '*_test.go' . | sort | while read -r file; do \
	  for target in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | cut -d' ' -f2); do \
	    echo "== $$(dirname "$$file") $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	  done; \
	done

.PHONY: lint
lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	$(GOTOOL) staticcheck ./...
	@scripts/vulnerabilities.sh

.PHONY: clean
clean:
	rm -rf bin .cache $(RUNNER)

.PHONY: distclean
distclean: clean
	rm -rf .tools

$(CURDIR)/.tools/uv/bin/uv: tests/requirements-uv.txt
	$(PYTHON) -m venv .tools/uv || { echo "Remedy: apt-get install python3-venv"; exit 1; }
	.tools/uv/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

.tools/%/ready: tests/requirements-%.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 .tools/$*
	$(UV) pip install --quiet --python .tools/$*/bin/python -r $<
	touch $@

# The picture of the README, from a real run.
.PHONY: picture
picture: build $(UV)
	$(UV) run --no-project --python 3.11 --with pyte==0.8.2 --with rich==14.1.0 scripts/picture.py docs/demo.svg scripts/demo.sh
