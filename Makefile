# The commands of the README. Each is one script or one cargo command, so that they can be run without make.
# The rooms: scripts/ (what the targets do), lab/ (demo and lab tests), benches/ (make bench).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-stop test sim fuzz bench setup install fmt lint build

PREFIX ?= /usr/local
DESTDIR ?=

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## real HTTP through the load balancer in a lab of namespaces (root); KEEP=1 leaves it running
	@scripts/demo.sh $(if $(KEEP),--keep)

demo-stop: ## ends what `make demo KEEP=1` left running
	@scripts/demo.sh --stop

test: ## every test: formatting, lints, licences, unit, property, scenario, lab (lab tests need root)
	@scripts/test.sh

sim: ## the whole system simulated: SEED=7 (STEPS=…) replays, MINUTES=10 searches with fresh seeds
	@scripts/sim.sh $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),,--minutes $(or $(MINUTES),1))

fuzz: ## coverage-guided fuzzing of every target, MINUTES=1 each; TARGETS='packet path' for some
	@scripts/fuzz.sh --minutes $(or $(MINUTES),1) $(TARGETS)

bench: ## measures, side by side with the peers on this machine, in fifteen minutes at most; QUICK=1: in two
	@scripts/bench.sh $(if $(QUICK),--quick)

setup: ## installs what is missing on Debian 12 or 13 (root)
	@scripts/setup.sh

build: ## release binaries, in target/release
	cargo build --release --locked --package lb-control --bins

install: build ## binaries, man pages, completions, unit, example config, under DESTDIR and PREFIX
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh

fmt: ## formats the code
	cargo fmt --all

lint: ## formatting and lints, as `make test` checks them
	@scripts/lint.sh
