# Max Booster. `make help` lists the targets; `make up` and `make test` are the two to know.

SHELL := /bin/bash
.DEFAULT_GOAL := help
V ?= 0
Q := $(if $(filter 0,$(V)),@,)
say = $(if $(filter 0,$(V)),@printf '  %-7s %s\n' '$(1)' '$(2)')

# SAN=address or SAN=thread builds a sanitized tree beside the plain one; SAN=coverage one that counts lines.
SAN ?=
B := build$(if $(SAN),/$(SAN))
PYTHON := /usr/bin/python3

CC := gcc
CSTD := -std=c11 -D_GNU_SOURCE
WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wvla -Werror
HARDEN := -fstack-protector-strong -fPIE -fno-strict-aliasing $(if $(SAN),,-D_FORTIFY_SOURCE=2)
# A comma for arguments of functions; SANFLAGS is expanded at once, so it stands before.
, := ,
SANFLAGS := $(if $(filter address,$(SAN)),-fsanitize=address$(,)undefined -fno-sanitize-recover=all) \
            $(if $(filter thread,$(SAN)),-fsanitize=thread) \
            $(if $(filter coverage,$(SAN)),--coverage -fprofile-update=atomic -fprofile-abs-path)
CFLAGS ?= -O2 -g
ALL_CFLAGS = $(CSTD) $(CFLAGS) $(WARN) $(HARDEN) $(SANFLAGS) -I. -I$(B)/gen -isystem /usr/include/postgresql -include lib/banned.h -pthread
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(SANFLAGS) -pthread

LIBS_LIB := -lpq -lhiredis -ljson-c -lcurl -lexpat -lsodium -lcrypto -lm
LIBS_API := -lfcgi

not_tests = $(filter-out $(wildcard $(1)/test_*.c $(1)/fuzz_*.c),$(wildcard $(1)/*.c))
LIB_SRC := $(call not_tests,lib)
API_SRC := $(call not_tests,fcgi) $(call not_tests,handlers)
WORKER_SRC := $(filter-out workers/scheduler%,$(call not_tests,workers))
SCHEDULER_SRC := $(wildcard workers/scheduler*.c)
MEDIA_SRC := $(call not_tests,workers/media)
CTL_SRC := $(call not_tests,deploy/ctl)
TEST_SRC := $(wildcard lib/test_*.c fcgi/test_*.c workers/test_*.c workers/media/test_*.c deploy/ctl/test_*.c)
FUZZ_SRC := $(wildcard lib/fuzz_*.c fcgi/fuzz_*.c workers/media/fuzz_*.c)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
PROGRAMS := $(if $(API_SRC),$(B)/bin/maxbooster-api) $(if $(WORKER_SRC),$(B)/bin/maxbooster-worker) \
            $(if $(SCHEDULER_SRC),$(B)/bin/maxbooster-scheduler) $(if $(MEDIA_SRC),$(B)/bin/maxbooster-media) \
            $(if $(CTL_SRC),$(B)/bin/maxboosterctl)
TESTS := $(patsubst %.c,$(B)/test/%,$(TEST_SRC))

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: $(PROGRAMS) ## build all programs into build/bin

# Generated sources: never committed, so they cannot drift.
GEN_HEADERS :=
-include deploy/gen.mk
-include deploy/stack.mk
-include deploy/quality.mk
-include workers/media/media.mk
-include deploy/bench.mk
-include deploy/verify.mk

$(B)/bin/maxbooster-api: $(call obj,$(API_SRC)) $(GEN_API_OBJ) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_API) $(LIBS_LIB)
$(B)/bin/maxbooster-worker: $(call obj,$(WORKER_SRC)) $(GEN_WORKER_OBJ) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)
$(B)/bin/maxbooster-scheduler: $(call obj,$(SCHEDULER_SRC)) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)
$(B)/bin/maxboosterctl: $(call obj,$(CTL_SRC)) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)

$(B)/lib.a: $(call obj,$(LIB_SRC)) $(GEN_LIB_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/obj/%.o: %.c | $(GEN_HEADERS)
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/obj/gen/%.o: $(B)/gen/%.c | $(GEN_HEADERS)
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -Wno-missing-prototypes -MMD -MP -c -o $@ $<

# A unit test: one program per module, cmocka, no servers. It may name extra objects in <test>.mk.
$(B)/test/%: $(B)/obj/%.o $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(B)/lib.a -lcmocka $(LIBS_LIB)

.PHONY: unit
unit: $(TESTS) ## unit tests only
	$(Q)deploy/run-unit-tests $(TESTS)
	$(Q)$(PYTHON) -m pytest -q -p no:cacheprovider tools loadtest/verify

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
.SECONDARY:
