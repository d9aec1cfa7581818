# What a developer and CI run. Everything is built from source by the go command; nothing needs installing first, except
# protoc for "make generate", and what "make foreign" names.

# The race detector needs a C compiler. Where there is none the same tests run without it.
RACE := $(shell test "$$(go env CGO_ENABLED)" = 1 && command -v "$$(go env CC)" >/dev/null && echo -race)

GOLANGCI ?= go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 10s
BENCHTIME ?= 1s
BENCH ?=
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: run build test lint bench microbench fuzz generate cross foreign deploy manifests

# A proxy with an embedded core in ./default.weir.
run:
	go run ./cmd/proxy

build:
	go build -o bin/ ./cmd/...

# Everything: the product's packages, then loadtest, which starts real etcd servers of three versions beside weir.
test:
	go test $(RACE) ./...
	cd loadtest && go test -count=1 -timeout 14m ./...

lint:
	$(GOLANGCI) run ./...
	cd loadtest && $(GOLANGCI) run --config ../.golangci.yml --build-tags foreign ./...
	cd deploy/check && $(GOLANGCI) run --config ../../.golangci.yml ./...
	cd docs/examples/go && $(GOLANGCI) run --config ../../../.golangci.yml ./...

# Weir beside etcd on this machine, for a few minutes. The report is in bin/report. BENCH takes flags: BENCH="-systems etcd-3.7,core".
bench:
	cd loadtest && go run . bench -quick -out ../bin/report $(BENCH)

microbench:
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# Each Fuzz function for FUZZTIME, as go test takes one at a time.
fuzz:
	@grep -rHo '^func Fuzz[A-Za-z0-9_]*' --include='*_test.go' . | sed 's|/[^/]*:func | |' | sort | \
	while read -r dir name; do \
		echo "$$dir $$name"; \
		(cd "$$dir" && go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x) || exit 1; \
	done

# The code below grpcapi/lockpb. protoc-gen-go and protoc-gen-grpc-gateway are of the versions in go.mod.
GENERATORS := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 \
	github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway@v2.29.0

generate:
	@for g in $(GENERATORS); do GOBIN=$(CURDIR)/bin/generators go install $$g || exit 1; done
	PATH=$(CURDIR)/bin/generators:$$PATH go generate ./...

# Builds what is released, for every platform. Only linux is tested.
cross:
	@for p in $(PLATFORMS); do \
		os=$${p%/*} arch=$${p#*/}; \
		echo "$$p"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -trimpath -ldflags=-s -o bin/$$os-$$arch/ ./cmd/... || exit 1; \
	done

# Clients that others have written, in Python and JavaScript, curl and Patroni, and the programs of docs/examples, against etcd
# and weir. It needs Debian's python3-etcd3, patroni, postgresql and curl, and npm.
foreign:
	cd docs/examples/node && npm ci --ignore-scripts
	cd loadtest && go test -count=1 -timeout 14m -tags foreign -run 'Libraries|Examples|Patroni' ./foreign

# Checks all that is in deploy/: see deploy/check. It needs systemd-analyze, of Debian's package systemd.
deploy:
	cd deploy/check && go test -count=1 -timeout 10m ./...

# The manifests in deploy/kubernetes again, from the chart.
manifests:
	cd deploy/check && go test -count=1 -run TheManifestsAreWhatTheChartMakes . -update
