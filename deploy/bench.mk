# Benchmarks: see docs/internals/bench.md. Figures depend on the machine, so none of this is a test.

BENCH_ROUNDS ?= 3
BENCH_SECONDS ?= 5
BENCH_KEPT_SECONDS ?= 3
BENCH_LONG ?=
BENCH_PROGRAMS := $(addprefix $(B)/bin/,bench-guards bench-presign media-driver null-fcgi) \
	$(addprefix $(B)/loadtest/,queue_driver bench_pg bench_scatter storm)

$(B)/bin/bench-presign: $(B)/obj/loadtest/bench_presign.o $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)
$(B)/bin/bench-guards: $(B)/obj/loadtest/bench_guards.o \
		$(filter-out %/fcgi/main.o,$(call obj,$(API_SRC))) $(GEN_API_OBJ) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB) $(LIBS_API)
$(B)/bin/null-fcgi: $(B)/obj/loadtest/null_fcgi.o
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_API)

.PHONY: bench bench-programs bench-overload
bench-programs: $(BENCH_PROGRAMS)
bench: ## benchmarks beside their peers, into build/bench (20 minutes; BENCH_ROUNDS, BENCH_SECONDS)
	@deploy/bootstrap bench
	@$(MAKE) --no-print-directory build bench-programs $(B)/loadtest/storm
	@$(PYTHON) loadtest/bench/main.py --build $(B) --rounds $(BENCH_ROUNDS) \
		--seconds $(BENCH_SECONDS) --kept-seconds $(BENCH_KEPT_SECONDS) $(if $(BENCH_LONG),--long)

bench-overload: ## storms of 2, 5 and 10 times the capacity, beside Express, into build/bench (4 minutes)
	@deploy/bootstrap bench
	@$(MAKE) --no-print-directory build $(B)/loadtest/storm
	@$(PYTHON) loadtest/bench/overload.py --build $(B)

.PHONY: capacity
CAPACITY_ROUNDS ?= 3
capacity: ## what requests and tracks cost each tier, and what 10 K to 100 M users need (6 minutes)
	@deploy/bootstrap bench
	@$(MAKE) --no-print-directory build $(B)/loadtest/storm
	@$(PYTHON) loadtest/bench/capacity.py --build $(B) --rounds $(CAPACITY_ROUNDS)
	@$(B)/bin/maxboosterctl capacity --costs $(B)/capacity/costs.json
