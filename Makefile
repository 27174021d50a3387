# Every check of the project. CI runs the same targets, see .ci/run.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

GO ?= go
# How long each fuzz target runs.
FUZZTIME ?= 10s
# Packages under test.
PKG ?= ./...
# Arguments of the measurement, such as -runs 3 -messages 100000.
BENCH ?=

TOOLS = $$($(GO) run ./contrib/tools/install -where)
SUM = $(GO) run ./contrib/tools/testsum

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## build the old nats-servers, the stores, the nats and age commands and the linter, once; install what is missing of Debian's packages
	@$(GO) run ./contrib/tools/install
	@bash contrib/tools/packages.sh curl zstd python3 memcached swift-proxy swift-object swift-container swift-account keystone \
		python3-keystonemiddleware python3-swiftclient prometheus prometheus-pushgateway

.PHONY: build
build: ## build everything, and bin/jetkeep
	$(GO) build ./...
	$(GO) build -o bin/ ./cmd/jetkeep

.PHONY: test
test: tools ## every test, with the race detector
	$(SUM) -show '^TestMatrix$$|^TestClusterLeaderKilled|^TestDemoOn' -- -race -count=1 -p 2 -timeout 60m $(PKG)

.PHONY: unit
unit: ## the tests of packages that need no server, quickly
	$(SUM) -- $$($(GO) list -f '{{.ImportPath}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}' ./... \
		| awk '!/natstest|service\/embedded|nats-server/ { print $$1 }')

.PHONY: conformance
conformance: tools ## the version matrix, the clusters, the golden files and the drivers' suite
	$(SUM) -show '^TestMatrix$$|^TestClusterLeaderKilled' -- -count=1 -p 2 -timeout 20m -run 'Matrix|Cluster|Golden|Conformance|Suite' ./service/... ./store/...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@bash contrib/tools/fuzz.sh $(FUZZTIME)

MODEL := ^TestModel|^TestEveryDamageIsFound$$|^TestMetadataOfATebibyteIsBounded$$

.PHONY: model
model: ## 10,000 interleavings of backups, forgetting and pruning, 10,000 damages, the metadata of a TiB
	$(SUM) -show '$(MODEL)' -- -count=1 -timeout 20m -run '$(MODEL)' ./store -model-runs 10000

.PHONY: layering
layering: ## the direction of imports
	@$(GO) run ./contrib/tools/layering

.PHONY: lint
lint: tools layering ## format, vet, linters, length of files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	@git ls-files '*.go' | xargs wc -l | awk '$$2 != "total" && $$1 > 600 { print $$2 ": " $$1 " lines, more than 600"; bad = 1 } END { exit bad }'
	$(GO) vet ./...
	"$(TOOLS)/golangci-lint-2.15.0" run ./...

.PHONY: demo
demo: ## back up, delete, restore and compare a sample account
	$(GO) run ./cmd/jetkeep demo

.PHONY: demo-stores
demo-stores: tools ## the same with the repository on a real S3 server and on a real Swift
	$(SUM) -show '^TestDemoOn' -- -count=1 -run '^TestDemoOn' ./cmd/jetkeep

.PHONY: faults
faults: tools ## disturb the way to real stores a thousand times, and restore all that was called a success
	$(SUM) -show '^TestFaults' -- -count=1 -timeout 45m -run '^TestFaults' ./contrib/faults -faults 500

.PHONY: chaos
chaos: tools ## kill, stop, cut off and restart instances and servers during 200 sessions, and see that nothing is lost or done twice
	$(SUM) -show '^TestChaos$$' -- -count=1 -timeout 40m -run '^TestChaos$$' ./contrib/chaos -sessions 200

.PHONY: readme
readme: tools ## run the commands that the README shows
	$(SUM) -- -count=1 -run 'README|Readme' ./cmd/...

.PHONY: bench
bench: tools build ## measure against nats and restic; installs restic if it is missing
	@bash contrib/tools/packages.sh restic
	$(GO) build -o bin/bench ./contrib/bench
	bin/bench -nats-server "$(TOOLS)/nats-server-2.15.2" -nats "$(TOOLS)/nats" -jetkeep bin/jetkeep $(BENCH)

.PHONY: bench-stores
bench-stores: tools ## measure uploads into S3 and Swift against mc and swift
	$(GO) test -run '^$$' -bench Upload -benchtime 1x -timeout 15m ./contrib/bench

.PHONY: bench-instances
bench-instances: tools ## measure 1,000 streams over one to three instances, and 2,000 schedules
	$(GO) test -run '^$$' -bench Instances -benchtime 1x -timeout 15m ./contrib/bench
	$(GO) test -run '^$$' -bench Schedules -benchtime 1x -timeout 15m ./service/scheduler

# Measurements and what `test` already ran are not in it.
CI_STEPS := tools build lint test model faults chaos fuzz readme demo

.PHONY: ci
ci: ## everything that must pass, with the time of each step
	@failed=; report=; \
	for step in $(CI_STEPS); do \
		echo "=== make $$step"; begin=$$SECONDS; \
		if $(MAKE) --no-print-directory $$step; then verdict=ok; else verdict=FAILED; failed="$$failed $$step"; fi; \
		report+=$$(printf '%5ds  %-8s %s' $$((SECONDS - begin)) $$step $$verdict)$$'\n'; \
	done; \
	echo "=== steps, slowest first, $$SECONDS s in all"; printf '%s' "$$report" | sort -rn; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; echo "all steps passed"

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
