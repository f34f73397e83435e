# Tests of fcgi/ and workers/, sanitizers, fuzzing, lint and static analysis.

FUZZ_SECONDS ?= 20
ANALYZE_JOBS ?= 2

# Tests link archives, so that a test that defines a function itself (a fake) gets its own.
$(B)/api.a: $(call obj,$(filter-out fcgi/main.c,$(API_SRC))) $(GEN_API_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/test/fcgi/%: $(B)/obj/fcgi/%.o $(B)/api.a $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS_API) $(LIBS_LIB)

$(B)/ctl.a: $(call obj,$(filter-out deploy/ctl/main.c,$(CTL_SRC)))
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/test/deploy/ctl/%: $(B)/obj/deploy/ctl/%.o $(B)/ctl.a $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS_LIB)

# Fuzzers are built by clang with libFuzzer, ASan and UBSan, into a folder of their own.
FUZZERS := $(patsubst %.c,$(B)/fuzz/%,$(FUZZ_SRC))
FUZZ_LINK = mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@
$(B)/media.a: $(call obj,$(filter-out workers/media/main.c,$(MEDIA_SRC)))
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/fuzz/lib/%: $(B)/obj/lib/%.o $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)$(FUZZ_LINK) $^ $(LIBS_LIB)
$(B)/fuzz/fcgi/%: $(B)/obj/fcgi/%.o $(B)/api.a $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)$(FUZZ_LINK) $^ $(LIBS_API) $(LIBS_LIB)
$(B)/fuzz/workers/media/%: $(B)/obj/workers/media/%.o $(B)/media.a $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)$(FUZZ_LINK) $^ $(LIBS_MEDIA) $(LIBS_LIB)

.PHONY: fuzz fuzzers run-fuzzers sanitize integration-sanitized lint docs analyze
fuzz: ## bounded fuzzing, FUZZ_SECONDS (20) for each target
	@$(MAKE) --no-print-directory CC=clang-14 WARN=-Wall SAN=address B=$(B)/fuzzing \
		CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' run-fuzzers
fuzzers: $(FUZZERS)
run-fuzzers: fuzzers
	@deploy/run-fuzzers $(FUZZ_SECONDS) $(B) $(FUZZERS)

SANITIZERS ?= address thread
sanitize: ## unit and integration tests under ASan+UBSan and under TSan
	@set -e; for s in $(SANITIZERS); do \
		$(MAKE) --no-print-directory SAN=$$s B=$(B)/$$s unit; done
	@set -e; for s in $(SANITIZERS); do $(MAKE) --no-print-directory SAN=$$s B=$(B)/$$s \
		PLAIN=$(B) integration-sanitized; done

# The media child stays a plain one: under seccomp and a limit of its address space no sanitizer runs;
# its code has unit tests and fuzzers under them. A finding ends its process and is in the log.
integration-sanitized: build
	@$(MAKE) --no-print-directory SAN= B=$(PLAIN) $(PLAIN)/bin/maxbooster-media
	@cp $(PLAIN)/bin/maxbooster-media $(B)/bin/
	@rm -rf $(B)/findings && install -d -m 1777 $(B)/findings # as root, servers run as somebody else
	@ASAN_OPTIONS=log_path=$(abspath $(B))/findings/of \
		TSAN_OPTIONS=log_path=$(abspath $(B))/findings/of:halt_on_error=0:suppressions=$(abspath deploy/tsan.supp) \
		UBSAN_OPTIONS=print_stacktrace=1:log_path=$(abspath $(B))/findings/of \
		deploy/run-integration-tests $(PYTEST_ARGS)
	@! cat $(B)/findings/of.* 2>/dev/null

# Which lines the tests run. Processes write their counts as they end, so those that tests kill -9 are missing, as is
# the media child under seccomp; the servers' user must be able to write them. COVERAGE_TESTS="" leaves the
# integration tests out.
COVERAGE_TESTS ?= integration
.PHONY: coverage coverage-run
coverage: ## lines that unit and integration tests run, into build/coverage/report (COVERAGE_TESTS=files)
	@deploy/bootstrap analyze
	@$(MAKE) --no-print-directory SAN=coverage B=$(B)/coverage CFLAGS='-O1 -g' PLAIN=$(B) coverage-run
coverage-run: build $(TESTS)
	@$(MAKE) --no-print-directory SAN= B=$(PLAIN) CFLAGS='-O2 -g' $(PLAIN)/bin/maxbooster-media
	@find $(B) -name '*.gcda' -delete
	@deploy/run-unit-tests $(TESTS)
	@find $(B)/obj -type d -exec chmod 0777 {} + && cp $(PLAIN)/bin/maxbooster-media $(B)/bin/
	@find $(B)/obj -name '*.gcda' -exec chmod 0666 {} +
	@$(if $(COVERAGE_TESTS),deploy/run-integration-tests $(COVERAGE_TESTS))
	@mkdir -p $(B)/report
	@gcovr --root . --exclude '.*/(test|fuzz)_[^/]*' --exclude 'build/.*' --exclude 'loadtest/.*' --print-summary \
		--html-details $(B)/report/index.html --json-summary $(B)/report/summary.json $(B)/obj

# Pages and files that tables generate; committed, and compared by lint.
API_X = $(B)/bin/maxbooster-api -x
docs: $(B)/bin/maxbooster-api ## write the generated pages of docs/ and .env.example
	$(Q)$(API_X) config-docs >docs/config.md
	$(Q)$(API_X) env-example >.env.example
	$(Q)$(API_X) errors-docs >docs/errors.md
	$(Q)$(API_X) metrics-docs >docs/metrics.md
	$(Q)$(API_X) events-docs >docs/events.md
	$(Q)$(PYTHON) tools/gen_routes.py fcgi/routes.gperf --docs >docs/routes.md

lint: $(B)/bin/maxbooster-api ## formatter, linters, generated pages, house rules
	@$(PYTHON) tools/check_tree.py --api $(B)/bin/maxbooster-api

ANALYZED := $(filter-out lib/test_% lib/fuzz_% fcgi/test_% fcgi/fuzz_% workers/test_%,$(wildcard \
	lib/*.c fcgi/*.c handlers/*.c workers/*.c))
ANALYZE_FLAGS = $(CSTD) -I. -I$(B)/gen -include lib/banned.h
each_analyzed = $(Q)printf '%s\n' $(ANALYZED) | xargs -P $(ANALYZE_JOBS) -n $(1) sh -c $(2) analyze
analyze: $(GEN_HEADERS) ## clang-tidy, cppcheck and gcc -fanalyzer
	$(call say,TIDY,lib fcgi handlers workers)
	$(call each_analyzed,4,'clang-tidy-14 --quiet --warnings-as-errors="*" "$$@" -- $(ANALYZE_FLAGS) 2>/dev/null')
	$(call say,CPPCHK,lib fcgi handlers workers)
	$(Q)cppcheck --quiet --error-exitcode=1 --enable=warning,portability --inline-suppr --std=c11 \
		--suppressions-list=.cppcheck -I. -I$(B)/gen -j $(ANALYZE_JOBS) $(ANALYZED)
	$(call say,GCC,-fanalyzer: what it tells is to be read; it fails nothing)
	$(call each_analyzed,1,'$(CC) $(ANALYZE_FLAGS) -O1 -fanalyzer -c -o /dev/null "$$@"')

.PHONY: schemathesis
schemathesis: build ## the whole API against its own description, by schemathesis (5 minutes)
	@deploy/bootstrap analyze
	@deploy/run-schemathesis

SEEDS ?= 20
FIRST_SEED ?= 1
.PHONY: check-queue
check-queue: build ## the queue's checker over SEEDS (20) storms, on one Redis and on a cluster
	@$(PYTHON) integration/check_queue.py --first $(FIRST_SEED) --seeds $(SEEDS)
