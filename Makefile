# The targets that 'make help' lists carry '##'. CI runs .ci/run, which 'make
# ci' runs here.

GO            ?= go
GOLANGCI_LINT ?= $(shell command -v golangci-lint || echo $$($(GO) env GOPATH)/bin/golangci-lint)

.DEFAULT_GOAL := help
.PHONY: help build test race lint fmt demo ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./soniq
	$(GO) build -o soniq ./cmd/soniq

test: ## run the tests; they bring their own Postgres
	$(GO) test ./...

race: ## run the tests with the race detector
	$(GO) test -race ./...

lint: ## vet, lint and check the format
	$(GO) vet ./...
	$(GOLANGCI_LINT) run ./...

fmt: ## format the code
	$(GOLANGCI_LINT) fmt ./...

demo: ## run the demo on a private Postgres
	$(GO) run ./cmd/soniq demo

ci: ## do what CI does
	.ci/run
