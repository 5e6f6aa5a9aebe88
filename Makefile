# make demo: watch a router get its port set, lose power, and come back on the same ports.
# make test: all tests. Both set up what they need: Debian packages, a Python venv, guest images.

PYTHON = .venv/bin/python

.PHONY: help setup images demo test lint bench conformance ipk apk lab-openwrt \
	bench-openwrt bench-nat soak clean

help:
	@echo "make demo    the story on the terminal, then build/demo/report.html"
	@echo "make test    lint, unit, property, both runtimes, interop and end-to-end tests"
	@echo "make bench   start-up, grant to NAT, memory and CPU, next to the bare interpreters"
	@echo "make conformance   how many requirements of the RFCs are met, and which are not"
	@echo "make ipk     the package for OpenWrt 24.10, into build/openwrt; make apk: for 25.12"
	@echo "make lab-openwrt   the tests on OpenWrt itself (docs/lab-openwrt.md)"
	@echo "make bench-openwrt   what the agent costs an idle OpenWrt router, in eleven minutes"
	@echo "make bench-nat   our NAT rules next to others and to masquerade, as root (docs/nat.md)"
	@echo "make soak    a million packets through changes of everything (docs/soak.md)"
	@echo "make lint    ruff"
	@echo "make clean   remove what was built"

setup: .venv/ready images

.venv/ready: pyproject.toml qemu-lab/setup.sh qemu-lab/host-packages.txt tests/host-packages.txt
	sh qemu-lab/setup.sh

images: .venv/ready
	$(PYTHON) qemu-lab/images.py

demo: setup
	$(PYTHON) qemu-lab/demo.py

lint: .venv/ready
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

test: setup lint
	$(PYTHON) -m pytest

bench: setup
	$(PYTHON) tests/bench/bench.py

conformance: .venv/ready
	@$(PYTHON) -m tests.conformance

ipk apk: .venv/ready
	@$(PYTHON) openwrt-package/build.py $@

lab-openwrt: setup
	$(PYTHON) qemu-lab/openwrt_tests.py

bench-openwrt: setup ipk
	$(PYTHON) qemu-lab/openwrt_bench.py build/openwrt/cpe-agent_*_all.ipk

bench-nat: .venv/ready
	$(PYTHON) -m tests.bench.nat

# SOAK_PACKETS: how many packets the lwAFTR has to see.
soak: setup
	SOAK_PACKETS=$${SOAK_PACKETS:-1000000} $(PYTHON) -m pytest tests/e2e/soak -s

clean:
	rm -rf build .venv .pytest_cache .ruff_cache .hypothesis
