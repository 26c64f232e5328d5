# The targets that 'make help' lists carry '##'. CI runs .ci/run, which 'make
# ci' runs here.

GO            ?= go
GOLANGCI_LINT ?= $(shell command -v golangci-lint || echo $$($(GO) env GOPATH)/bin/golangci-lint)

.DEFAULT_GOAL := help
.PHONY: help build release test long race matrix moves faults ha files snippets bench compare lint fmt docs demo module ci poolers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./soniq
	$(GO) build -o soniq ./cmd/soniq

# Without cgo they need nothing of the machine they run on. The version is that
# of schema.go; Go itself stamps the commit ('soniq version' shows both).
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
VERSION   = $(shell sed -n 's/^const Version = "\(.*\)"/\1/p' schema.go)
SHA256SUM ?= $(shell command -v sha256sum || echo shasum -a 256)

release: ## build static binaries and their checksums in dist/
	rm -rf dist && mkdir dist
	@set -e; for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/}; \
		echo "building soniq_$(VERSION)_$${os}_$$arch"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -buildvcs=auto -ldflags '-s -w' \
			-o "dist/soniq_$(VERSION)_$${os}_$$arch" ./cmd/soniq; \
	done
	cd dist && $(SHA256SUM) soniq_* > SHA256SUMS

test: ## run the tests; they bring their own Postgres
	$(GO) test ./...

long: ## run the tests with more rounds, rows and combinations of the same; the chaos suite for five minutes
	SONIQ_TEST_LONG=all $(GO) test -timeout 60m ./...
	$(GO) test ./engine -count=1 -run Chaos -chaos=5m -timeout 20m

race: ## run the tests with the race detector
	$(GO) test -race ./...

matrix: ## run the tests on each of PostgreSQL 14 to 18, which are downloaded
	.ci/matrix

moves: ## move databases in every way that docs/restore.md names, with servers of its own
	.ci/moves
	SONIQ_TEST_MOVES=all $(GO) test ./internal/interop -run Moved -count=1 -v -timeout 30m

faults: ## fill the disk and the NOTIFY queue of servers of its own; as root
	.ci/faults

ha: ## kill, cut off and restart a cluster of its own with Patroni, HAProxy and PgBouncer under load; TIMES=1 is short
	.ci/ha

# Their clients are installed into the user's cache folder. It needs Python, Node, Java with
# Maven, and Rust; what a machine lacks is said.
snippets: ## run the programs of docs/clients with each client, and cut them off
	SONIQ_TEST_SNIPPETS=all $(GO) test ./internal/interop -run Snippets -count=1 -v -timeout 30m

poolers: ## run all commands in all modes behind PgBouncer; SONIQ_TEST_PGBOUNCER=PATH names another than the installed one
	SONIQ_TEST_LONG=all $(GO) test -count=1 ./internal/poolers

files: ## send files of dead letters through psql, DuckDB, pandas, jq, Miller, sqlite3 and LibreOffice
	.ci/files

bench: ## compare with River, graphile-worker and plain SQL; some ten minutes
	cd bench && $(GO) run .

compare: ## measure this tree and COMMIT=... in turns
	$(GO) run .ci/compare.go $(COMMIT)

lint: ## vet, lint and check the format
	$(GO) vet ./...
	$(GOLANGCI_LINT) run ./...

fmt: ## format the code
	$(GOLANGCI_LINT) fmt ./...

docs: ## write the tables in docs/ that are made from code
	$(GO) test ./internal/httpverdict -run TestRows_docsWorkerHasTheTable -args -write

demo: ## run the demo on a private Postgres
	$(GO) run ./cmd/soniq demo

# What is given as PATH would be the recipe's own search path, too.
module: ## rename the Go module: make module PATH=example.com/you/soniq
	@PATH=/usr/local/bin:/usr/bin:/bin .ci/module '$(if $(filter command,$(firstword $(origin PATH))),$(PATH))'

ci: ## do what CI does
	.ci/run
