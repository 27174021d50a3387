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

# Times that loaded runs every test.
RUNS ?= 5

TOOLS = $$($(GO) run ./contrib/tools/install -where)
SUM = $(GO) run ./contrib/tools/testsum
# The suite mostly waits, so that more of it runs at once than there are cores.
LIMITS = -count=1 -p=3 -parallel=6 -timeout=60m
# Tests whose output is shown: what they tried, in figures.
SHOWN = ^TestMatrix$$|^TestClusterLeaderKilled|^TestDemoOn|^TestModel|^TestEveryDamageIsFound$$|^TestMetadataOfATebibyteIsBounded$$|^TestFaults|^TestChaos$$
# The race detector makes everything several times slower. It is left to a campaign
# for tests of clusters, real stores and memory, where other processes do nearly all of the
# work, and to nothing for packages that start no goroutine.
CLUSTERS = Cluster|RebuiltReplica|Hostile
STORES = /contrib/(chaos|faults|s3|swift)$$|/service/stores$$|/store/object/(objectserver|s3|swift)$$
SEQUENTIAL = /schedule$$|/service/archive$$|/store/(record|retain|seal|seqset|sign)$$
UNRACED = $(STORES)|$(SEQUENTIAL)
# Those that take longest begin first, so that none of them is left at the end.
LONGEST = ^jetkeep/(store|service|service/backup|cmd/jetkeep)$$
PACKAGES = $$($(GO) list $(PKG) | grep -vE '$(UNRACED)' | awk '/$(subst /,\/,$(LONGEST))/ { print; next } { rest = rest $$0 "\n" } END { printf "%s", rest }' || true)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## build the nats-servers, the stores, the nats and age commands that tests run, once; install what is missing of Debian's packages
	@$(GO) run ./contrib/tools/install -for test
	@bash contrib/tools/packages.sh curl zstd python3 memcached swift-proxy swift-object swift-container swift-account keystone \
		python3-keystonemiddleware python3-swiftclient prometheus prometheus-pushgateway

.PHONY: build
build: ## build everything, bin/jetkeep, and the command for the other systems
	$(GO) build ./...
	$(GO) build -o bin/ ./cmd/jetkeep
	GOOS=windows $(GO) build -o /dev/null ./cmd/jetkeep
	GOOS=darwin $(GO) build -o /dev/null ./cmd/jetkeep

.PHONY: quick
quick: ## the tests of packages that need no server, in less than a minute
	$(SUM) -- $$($(GO) list -f '{{.ImportPath}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}' $(PKG) \
		| awk '!/natstest|service\/embedded|nats-server|objectserver/ { print $$1 }')

.PHONY: test
test: tools ## every test; with the race detector where it can find something here
	$(SUM) -show '$(SHOWN)' -- -race $(LIMITS) '-skip=$(CLUSTERS)' $(PACKAGES) -- $(LIMITS) '-run=$(CLUSTERS)' $(PACKAGES) \
		-- $(LIMITS) $$($(GO) list $(PKG) | grep -E '$(UNRACED)' || true)

.PHONY: campaign
campaign: ## everything in its full form, which takes hours: all versions, 10,000 models, 500 faults a store, 200 sessions of chaos, a minute for each fuzz target
	@$(MAKE) --no-print-directory steps STEPS="tools test-full race fuzz" FUZZTIME=1m

.PHONY: test-full
test-full: tools ## every test in its full form
	JETKEEP_CAMPAIGN=1 $(SUM) -show '$(SHOWN)' -- $(LIMITS) $(PKG)

.PHONY: race
race: tools ## the race detector over clusters and real stores
	JETKEEP_CAMPAIGN= $(SUM) -- -race $(LIMITS) '-run=$(CLUSTERS)' $(PACKAGES) -- -race $(LIMITS) $$($(GO) list $(PKG) | grep -E '$(STORES)' || true)

.PHONY: loaded
loaded: tools ## every test, RUNS times, beside four busy processes a core
	$(GO) run ./contrib/tools/load -times 4 -runs $(RUNS) -- $(MAKE) --no-print-directory test

.PHONY: alone
alone: tools ## every test, each package alone, on one core
	taskset -c 0 $(SUM) -- $(LIMITS) -p=1 $(PKG)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@bash contrib/tools/fuzz.sh $(FUZZTIME)

.PHONY: layering
layering: ## the direction of imports
	@$(GO) run ./contrib/tools/layering

.PHONY: lint
lint: layering ## format, vet, linters, length of files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	@git ls-files '*.go' | xargs wc -l | awk '$$2 != "total" && $$1 > 600 { print $$2 ": " $$1 " lines, more than 600"; bad = 1 } END { exit bad }'
	$(GO) vet ./...
	@$(GO) run ./contrib/tools/install -for lint
	"$(TOOLS)/golangci-lint-2.15.0" run ./...

.PHONY: demo
demo: ## back up, delete, restore and compare a sample account
	$(GO) run ./cmd/jetkeep demo

.PHONY: bench
bench: tools build ## measure against nats and restic; installs restic if it is missing
	@bash contrib/tools/packages.sh restic
	$(GO) build -o bin/bench ./contrib/bench
	bin/bench -nats-server "$(TOOLS)/nats-server-2.15.3" -nats "$(TOOLS)/nats-0.5.1/nats" -jetkeep bin/jetkeep $(BENCH)

.PHONY: bench-stores
bench-stores: tools ## measure uploads into S3 and Swift against mc and swift
	@$(GO) run ./contrib/tools/install -for bench
	$(GO) test -run '^$$' -bench Upload -benchtime 1x -timeout 15m ./contrib/bench

.PHONY: bench-instances
bench-instances: tools ## measure 1,000 streams over one to three instances, and 2,000 schedules
	$(GO) test -run '^$$' -bench Instances -benchtime 1x -timeout 15m ./contrib/bench
	$(GO) test -run '^$$' -bench Schedules -benchtime 1x -timeout 15m ./service/scheduler

# What the demo and the README show is among the tests. Measurements are not in it,
# nor what `campaign` tries.
.PHONY: ci
ci: ## everything that must pass, with the time of each step
	@$(MAKE) --no-print-directory steps STEPS="tools build lint test"

.PHONY: steps
steps:
	@failed=; report=; \
	for step in $(STEPS); do \
		echo "=== make $$step"; begin=$$SECONDS; \
		if $(MAKE) --no-print-directory $$step; then verdict=ok; else verdict=FAILED; failed="$$failed $$step"; fi; \
		report+=$$(printf '%5ds  %-9s %s' $$((SECONDS - begin)) $$step $$verdict)$$'\n'; \
	done; \
	echo "=== steps, slowest first, $$SECONDS s in all"; printf '%s' "$$report" | sort -rn; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; echo "all steps passed"

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
