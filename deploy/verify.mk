# Load and verdicts: see docs/internals/verify.md.

VERIFY_SECONDS ?=
VERIFY_RATE ?=
VERIFY_FAULTS ?= 1
PROFILE ?= average
VERIFY_PHASE := $(or $(PHASE),0)
RUN_LOAD = $(PYTHON) loadtest/verify/main.py --build $(B) --phase $(VERIFY_PHASE) \
	$(addprefix --seconds ,$(VERIFY_SECONDS)) $(addprefix --rate ,$(VERIFY_RATE))

.PHONY: verify load
verify: ## phase PHASE (0) under load, with faults and a verdict, into build/verify/phase-n (15 minutes)
	@deploy/bootstrap verify
	@$(MAKE) --no-print-directory build
	@$(RUN_LOAD) --out $(B)/verify/phase-$(VERIFY_PHASE) $(if $(filter 0,$(VERIFY_FAULTS)),--no-faults)

load: ## another PROFILE (smoke, stress, spike, soak, breakpoint), without faults, into build/load
	@deploy/bootstrap verify
	@$(MAKE) --no-print-directory build
	@$(RUN_LOAD) --profile $(PROFILE) --no-faults --out $(B)/load/phase-$(VERIFY_PHASE)-$(PROFILE)
