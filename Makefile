# Two commands matter: `make run` does the main job on this machine, and
# `make test` proves it. Both need Go, make and git only.

VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | sed 's/^v//')
ifeq ($(VERSION),)
VERSION := 0.1.0-dev
endif
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    := $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)

BUILDINFO := github.com/pyvorin/pyvorin-edge/internal/buildinfo
LDFLAGS   := -s -w -X $(BUILDINFO).Version=$(VERSION) -X $(BUILDINFO).Commit=$(COMMIT) -X $(BUILDINFO).Date=$(DATE)
GOBUILD   := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
COMMANDS  := pyvorin-edge pyvorin-fleet

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The race detector needs a C compiler; without one the tests run without it.
RACE := $(shell command -v "$$(go env CC)" >/dev/null 2>&1 && [ "$$(go env GOARCH)" = amd64 -o "$$(go env GOARCH)" = arm64 ] && echo -race)

# What the agent may weigh on a device, stripped, for linux/arm64.
EDGE_BUDGET_BYTES := 20000000

HEALTH_PORT ?= 8080
FLEET_PORT  ?= 8090

.PHONY: help build run test test-sensors test-services test-arm test-vm check bench dist clean fmt vet staticcheck tidy cross

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/pyvorin-edge and bin/pyvorin-fleet (VERSION=1.2.3)
	@mkdir -p bin
	$(GOBUILD) -o bin/ $(COMMANDS:%=./cmd/%)

run: build ## Run the controller and one agent on this machine; Ctrl-C stops both
	@go build -o bin/try ./packaging/try
	@HEALTH_PORT=$(HEALTH_PORT) FLEET_PORT=$(FLEET_PORT) bin/try

test: ## Run the tests that need nothing else
	$(if $(RACE),,CGO_ENABLED=0 )go test $(RACE) -timeout 15m ./...

# Installs Debian packages where they are missing and this is root.
NEEDS := e2e/needs.sh

test-sensors: ## Run the tests of the sensors, against the nearest real things
	$(if $(RACE),,CGO_ENABLED=0 )go test $(RACE) -timeout 15m ./sensors/...

test-services: ## Run the tests that need a mosquitto
	@$(NEEDS) mosquitto
	$(if $(RACE),,CGO_ENABLED=0 )go test $(RACE) -timeout 5m -tags services -run Mosquitto ./sensors/mqtt ./command

# The sensors, and what a reading and an update depend on, on the processors of a
# Raspberry Pi of today and of the first generation. Left out are the tests that
# need what the emulation has not: a mount namespace, PR_SET_CHILD_SUBREAPER, and a
# request written within the 50 ms after which net/http does not keep the
# connection.
ARM_PACKAGES := ./sensors/... ./wire ./privacy ./syncqueue ./trust ./ota/disk
ARM_SKIP := ^(TestFullDisk|TestNothingIsLeftRunning|TestConnectionIsKept)$$
ARM_TEST := CGO_ENABLED=0 go test -vet=off -timeout 15m -skip '$(ARM_SKIP)'

test-arm: ## Run the tests of the sensors and the queue on emulated ARM processors
	@$(NEEDS) qemu-user-static
	GOARCH=arm64 $(ARM_TEST) $(ARM_PACKAGES)
	GOARCH=arm GOARM=6 QEMU_CPU=arm1176 $(ARM_TEST) $(ARM_PACKAGES)

test-vm: ## Run the tests in booted machines (VMFLAGS=-short: amd64 only)
	@$(NEEDS) qemu-system-x86 qemu-system-arm qemu-utils qemu-user-static mmdebstrap arch-test e2fsprogs cpio kmod
	go test -v -count=1 -timeout 60m -tags vm $(VMFLAGS) ./e2e/vm

check: fmt vet staticcheck tidy cross ## Static checks, cross-builds, size budget
	go test -count=1 ./internal/checks

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt'ed: $$out" >&2; exit 1; fi

vet:
	go vet ./...
	go vet -tags vm,services ./e2e/vm/... ./sensors/mqtt ./command

staticcheck:
	go run $(STATICCHECK) ./...

tidy:
	go mod tidy -diff
	go mod verify

# name:GOARCH:GOARM
TARGETS := arm64:arm64: armv7:arm:7 armv6:arm:6 amd64:amd64:

cross:
	@mkdir -p dist/bin
	@for target in $(TARGETS); do \
		old=$$IFS; IFS=:; set -- $$target; IFS=$$old; \
		for c in $(COMMANDS); do \
			out=dist/bin/$$c-linux-$$1; \
			GOOS=linux GOARCH=$$2 GOARM=$$3 $(GOBUILD) -o $$out ./cmd/$$c || exit 1; \
			go version -m $$out | grep -q CGO_ENABLED=0 || { echo "$$out is not static" >&2; exit 1; }; \
		done; \
	done
	@size=$$(wc -c < dist/bin/pyvorin-edge-linux-arm64); \
	echo "pyvorin-edge for linux/arm64: $$size bytes of $(EDGE_BUDGET_BYTES)"; \
	if [ "$$size" -gt $(EDGE_BUDGET_BYTES) ]; then echo "over the size budget" >&2; exit 1; fi

dist: cross ## Build static binaries of every board, man pages and checksums in dist/
	@for c in $(COMMANDS); do go run -tags man -ldflags '$(LDFLAGS)' ./cmd/$$c man dist/man || exit 1; done
	cd dist && sha256sum bin/* > SHA256SUMS

bench: build ## Measure the figures of docs/performance.md
	@go test -run xxx -bench . -benchtime 1s -timeout 20m ./wire ./privacy ./syncqueue/... ./health ./fleet/...
	@go test -run xxx -bench . -benchtime 5x -timeout 20m ./e2e
	@ls -l bin

clean: ## Remove what was built and the files of make run
	rm -rf bin dist run
