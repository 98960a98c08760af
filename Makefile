# make demo: three hosts, pods pinging over vxlan.  make test: every test.  Both set up what is missing.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := iproute2 iputils-ping strace nftables iptables etcd-server etcd-client iperf3 procps ethtool clang libbpf-dev systemd-container \
    containernetworking-plugins
# Real container runtimes, for tests/runtimes. Their services are not started.
RUNTIMES := docker.io containerd runc podman conmon busybox-static conntrack containernetworking-plugins
CARGO := $(shell command -v cargo)
# Some of cargo's tests need root.
AS_ROOT := $(if $(SUDO),--config 'target."cfg(all())".runner = "$(SUDO)"')

.PHONY: demo test check lab bench setup engine cni kube runtimes

demo: .venv/.ready
	$(SUDO) $(BIN)/flannelctl lab demo

test: check kube runtimes
ifdef CARGO
	cargo test --quiet $(AS_ROOT)
else
	@echo "cargo isn't installed: the packet engine's own tests are LEFT OUT (https://rustup.rs)"
endif
	$(SUDO) $(BIN)/pytest -n 3 --dist loadfile

# What no package has ready: Kubernetes (4 min) and helm (2 min), built once and kept in root's cache.
kube: .venv/.ready
	$(SUDO) env "PATH=$$PATH" tools/kube-build
	$(SUDO) env "PATH=$$PATH" tools/helm-build

runtimes:
	PACKAGES="$(RUNTIMES)" tools/packages

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
ifdef CARGO
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
endif

setup: .venv/.ready

.venv/.ready: pyproject.toml tools/setup $(shell find Cargo.toml Cargo.lock crates -type f)
	PACKAGES="$(PACKAGES)" PYTHON="$(PYTHON)" tools/setup
	touch $@

engine:
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./crates/engine-py

# The CNI plugin: prints where it is.
cni:
	tools/cni-build

lab: .venv/.ready
	$(SUDO) $(BIN)/flannelctl lab up

bench: .venv/.ready
	$(SUDO) $(BIN)/python bench/netlink.py
	$(SUDO) $(BIN)/python bench/healing.py
	$(SUDO) $(BIN)/python bench/control_plane.py
	$(SUDO) $(BIN)/python bench/clouds.py
	$(SUDO) env "PATH=$$PATH" $(BIN)/python bench/cni.py
	$(SUDO) $(BIN)/python -m bench.dataplane
	$(SUDO) $(BIN)/python bench/soak.py
