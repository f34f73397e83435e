# The OpenAPI document, as JSON and as a C array.
GEN_API_OBJ += $(B)/obj/gen/openapi.o
GEN_HEADERS += $(B)/gen/openapi.h
$(B)/gen/openapi.c $(B)/gen/openapi.h $(B)/gen/openapi.json &: tools/gen_openapi.py lib/err.def \
		$(wildcard docs/openapi/*.yaml)
	$(call say,GEN,$(B)/gen/openapi.json)
	$(Q)$(PYTHON) tools/gen_openapi.py $(B)/gen

# The queue's Lua scripts as C strings.
QUEUE_LUA := $(filter-out lib/queue_common.lua,$(wildcard lib/queue_*.lua))
GEN_HEADERS += $(B)/gen/queue_lua.h
$(B)/gen/queue_lua.h: tools/gen_lua.py lib/queue_common.lua $(QUEUE_LUA)
	$(call say,GEN,$@)
	$(Q)$(PYTHON) tools/gen_lua.py $@ lib/queue_common.lua $(QUEUE_LUA)

# One typed C function per query of sql/queries.
GEN_LIB_OBJ += $(B)/obj/gen/queries.o
GEN_HEADERS += $(B)/gen/queries.h
$(B)/gen/queries.c $(B)/gen/queries.h &: tools/gen_queries.py $(wildcard sql/queries/*.sql)
	$(call say,GEN,$(B)/gen/queries.h)
	$(Q)$(PYTHON) tools/gen_queries.py --out $(B)/gen

# Routes: numbered for gperf, with prototypes and names.
GEN_API_OBJ += $(B)/obj/gen/routes.o $(B)/obj/gen/route_names.o
GEN_HEADERS += $(B)/gen/handlers.h
$(B)/gen/handlers.h $(B)/gen/route_names.c $(B)/gen/routes.gperf &: tools/gen_routes.py fcgi/routes.gperf
	$(call say,GEN,$(B)/gen/routes.gperf)
	$(Q)mkdir -p $(B)/gen && $(PYTHON) tools/gen_routes.py fcgi/routes.gperf $(B)/gen
$(B)/gen/routes.c: $(B)/gen/routes.gperf
	$(Q)gperf --output-file=$@ $<

# Passwords that attackers try first, as a sorted table.
GEN_LIB_OBJ += $(B)/obj/gen/breached_passwords.o
GEN_HEADERS += $(B)/gen/breached_passwords.h
$(B)/gen/breached_passwords.h $(B)/gen/breached_passwords.c &: tools/gen_passwords.py lib/breached-passwords.txt
	$(Q)mkdir -p $(B)/gen && $(PYTHON) tools/gen_passwords.py lib/breached-passwords.txt $(B)/gen

# Code of the job types: prototypes, and the perfect hash that finds them.
GEN_WORKER_OBJ += $(B)/obj/gen/jobs.o
GEN_HEADERS += $(B)/gen/job_protos.h
$(B)/gen/job_protos.h $(B)/gen/jobs.gperf &: tools/gen_jobs.py lib/job.def $(wildcard workers/job_*.c)
	$(call say,GEN,$(B)/gen/jobs.gperf)
	$(Q)$(PYTHON) tools/gen_jobs.py lib/job.def workers $(B)/gen && touch $(B)/gen/job_protos.h $(B)/gen/jobs.gperf
$(B)/gen/jobs.c: $(B)/gen/jobs.gperf
	$(Q)gperf --output-file=$@ $<

# Drivers and measuring programs that use the library directly.
$(B)/loadtest/%: $(B)/obj/loadtest/%.o $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)

# The checker's worker (loadtest/queue_check_job.c): ours but for the code of the job types.
$(B)/loadtest/queue_check_worker: $(B)/obj/loadtest/queue_check_job.o \
		$(call obj,$(filter-out workers/job_%,$(WORKER_SRC))) $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)
