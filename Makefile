# make demo: three hosts, pods pinging over vxlan.  make test: every test.  Both set up what is missing.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := iproute2 iputils-ping nftables iptables etcd-server etcd-client iperf3 procps

.PHONY: demo test check lab bench setup

demo: .venv/.ready
	$(SUDO) $(BIN)/flannelctl lab demo

test: check
	$(SUDO) $(BIN)/pytest

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.ready

.venv/.ready: pyproject.toml tools/setup
	PACKAGES="$(PACKAGES)" PYTHON="$(PYTHON)" tools/setup
	touch $@

lab: .venv/.ready
	$(SUDO) $(BIN)/flannelctl lab up

bench: .venv/.ready
	$(SUDO) $(BIN)/python bench/netlink.py
	$(SUDO) $(BIN)/python bench/healing.py
	$(SUDO) $(BIN)/python bench/control_plane.py
