# Everything here needs Go and nothing else; tools are pinned and come from the
# module proxy.

GO ?= go
export CGO_ENABLED = 0

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
BUF         = github.com/bufbuild/buf/cmd/buf@v1.75.0

FUZZTIME ?= 30s

.PHONY: build dev test race lint vuln golden proto fuzz sim mutants overload hostile scale bench image clean

build: ## one static binary, ./coordinator
	$(GO) build -buildvcs=true -trimpath -o coordinator .

BUILDER ?= docker
IMAGE   ?= pairdb-coordinator:latest

image: build ## the container image; BUILDER=buildah where there is no Docker
	$(BUILDER) build $(if $(findstring buildah,$(BUILDER)),--format docker) -f ops/deploy/Dockerfile -t $(IMAGE) .

dev: build ## a whole cluster in one process, on your machine
	./coordinator -dev

test: ## every test
	$(GO) test ./...

race: ## every test under the race detector (needs a C compiler), but those of whole processes, which are built without it
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -v /ops/e2e)

lint: ## formatting, vet, staticcheck, imports
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags overload,mutant ./coord ./ops/guard
	$(GO) run $(STATICCHECK) ./...

vuln: ## known vulnerabilities in what is used (asks the network for its database)
	$(GO) run $(GOVULNCHECK) ./...

golden: ## rewrite the expected output of the scenarios; review the diff as code
	$(GO) test ./coord -run TestScenarios -rewrite

proto: ## generate code from rpc/*pb/*.proto again
	cd rpc && $(GO) run $(BUF) generate

fuzz: ## each fuzz target for FUZZTIME; FUZZRESULTS=file keeps what was run, and goes on from there
	$(GO) run ./ops/fuzz -for $(FUZZTIME) $(if $(FUZZRESULTS),-results $(abspath $(FUZZRESULTS)))

sim: ## the simulator, resumable: SEED=n replays one seed, RUNS=n (in 500s) sets how many
	$(GO) test ./coord -run 'TestSimulation$$' -v -timeout 0 \
		$(if $(SEED),-sim.seed=$(SEED),-sim.runs=$(or $(RUNS),100000) -sim.results=$(CURDIR)/sim-results.tsv)

mutants: ## that the simulator finds planted bugs
	$(GO) test -tags mutant -v -run 'TestMutants|TestHistoriesFindBugs' ./coord

overload: ## what ten times too much load and a noisy tenant do; needs a machine that does nothing else
	$(GO) test -tags overload -run TestOverloadAndFairness -v -timeout 0 ./ops/guard

hostile: ## clients that mean harm, at full size
	$(GO) test -count=1 -run 'TestIdleConnections|TestSlowReaders|TestRapidResets|TestHugeHeaders|TestAnswersThatNobodyReads' -v ./rpc \
		-hostile.connections=10000 -hostile.resets=500000 -hostile.streams=1000

scale: ## topology changes, lost disks, comparisons and tombstones at full size, some 15 minutes
	$(GO) test ./ops/e2e -count=1 -v -timeout 30m -topology.keys=100000 -repair.keys=1000000 \
		-run 'TestTopologyUnderLoad|TestReplacedDiskIsRebuilt|TestReplicasConverge|TestEqualReplicas|TestTombstonesAreForgotten'

bench: ## the whole comparison, with ratios to a bare gRPC echo; BENCH="-h" tells its flags
	$(GO) run ./ops/bench $(BENCH)

clean:
	rm -f coordinator
	$(GO) clean -testcache
