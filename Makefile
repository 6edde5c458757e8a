# make test     installs what the tests need where it is missing, and runs all checks
# make demo     two agents of this machine contend for one singleton; one is killed, the other takes over
# make release  all three programs, optimised and linked statically, in target/static
# make chaos    plays every fault on every kind of Redis, and prints what came of it; takes some minutes
# make bench    figures of the release build, each beside a baseline; takes some minutes
# make rivals   the same faults for BeatCop and single-beat, beside this agent; installs them, and takes some minutes

.PHONY: test fmt clippy tests setup demo chaos release bench rivals clean

test: setup fmt clippy tests

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --all-targets -- --deny warnings

tests: setup
	@if cargo nextest --version >/dev/null 2>&1; \
	then set -x; cargo nextest run --locked; \
	else set -x; cargo test --locked; fi

setup: .venv/ready .servers/python/ready .servers/circus/ready .servers/debian/ready .servers/valkey/ready
	@scripts/setup

# Made anew when the versions change; the stamp comes last, so that a broken one is made again.
.venv/ready: tests/celery/requirements.txt
.servers/python/ready: tests/servers/requirements.txt
.servers/circus/ready: tests/circus/requirements.txt
.venv/ready .servers/python/ready .servers/circus/ready:
	@scripts/setup
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.servers/debian/ready: scripts/servers
	@scripts/setup
	@scripts/servers $(@D)
	@touch $@

.servers/valkey/ready: scripts/valkey
	@scripts/setup
	@scripts/valkey $(@D)
	@touch $@

demo:
	@scripts/demo

# The table is printed whatever came of it, and says by its exit code what did. CIRCUS_SEED=N plays a mix again.
chaos: setup
	rm -rf $${CARGO_TARGET_DIR:-target}/tmp/chaos
	-cargo nextest run --locked --profile chaos --test chaos --run-ignored all
	@scripts/chaos-table

# With a target of its own, so that what is compiled for the build itself stays as it is.
release: host = $(shell rustc -vV | sed -n 's/^host: //p')
release:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bins --target $(host)
	install -D -t target/static $(addprefix $${CARGO_TARGET_DIR:-target}/$(host)/release/,circus-agent circusctl circus-top)

bench: setup
	cargo bench --locked --bench step --bench restart --bench trees --bench handover --bench leases --bench scale --bench output --bench watchers --bench stats --bench sockets --bench zmq --bench top

rivals: setup .rivals/ready
	cargo bench --locked --bench rivals

.rivals/ready: scripts/rivals benches/rivals/beatcop.txt benches/rivals/single-beat.txt
	@scripts/rivals $(@D)
	@touch $@

clean:
	rm -rf .venv .servers .rivals target
