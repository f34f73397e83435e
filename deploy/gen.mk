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
