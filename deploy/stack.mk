# The local stack and its tests. Variables given to make reach deploy/stack.py by the environment
# and MAKEFLAGS.

export MB_BIN := $(abspath $(B)/bin)
STACK_TOOL := deploy/stack.py

.PHONY: up restart down status logs clean-data db-migrate db-verify db-rollback db-status db-compat test bootstrap

bootstrap: ## install what building and running needs (apt)
	@deploy/bootstrap run

# Two makes: the first may install the compiler's libraries, the second builds with them.
up: ## main job: build, start the stack, wait until it is ready
	@deploy/bootstrap run
	@$(MAKE) --no-print-directory build
	@$(STACK_TOOL) up

restart: build ## new API processes, instance by instance, with no request lost
	@$(STACK_TOOL) restart

down: ## stop all, keep the data
	@$(STACK_TOOL) down

status: ## every process and its readiness
	@$(STACK_TOOL) status

logs: ## follow the logs
	@$(STACK_TOOL) logs

clean-data: ## stop all, drop the data
	@$(STACK_TOOL) clean-data

db-migrate: ## deploy the migrations on every shard
	@$(STACK_TOOL) db-migrate

db-verify: ## verify them on every shard
	@$(STACK_TOOL) db-verify

db-rollback: ## revert the newest migration on every shard
	@$(STACK_TOOL) db-rollback

db-status: ## one line a shard
	@$(STACK_TOOL) db-status

# The release that is running, on the schema that is about to come.
REV ?= $(shell git describe --tags --abbrev=0 2>/dev/null || git rev-parse HEAD)
db-compat: ## an older revision's integration tests on the present schema: REV=, COMPAT_ARGS=
	@deploy/bootstrap test
	@deploy/run-compat-tests $(REV) $(COMPAT_ARGS)

test: ## unit tests, then integration tests on a stack of their own
	@deploy/bootstrap test
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory unit
	@deploy/run-integration-tests

.PHONY: test-fleet
test-fleet: build ## tests of the fleets of phases 1 and 3, on stacks of their own
	@MB_FLEET=1 deploy/run-integration-tests integration/test_topology.py

.PHONY: compose-test
compose-test: ## integration tests through containers (docker-compose); PHASE=0 or 1
	@deploy/bootstrap container
	@deploy/container/test
