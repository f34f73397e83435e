# The OpenAPI document, as JSON and as a C array.
GEN_API_OBJ += $(B)/obj/gen/openapi.o
GEN_HEADERS += $(B)/gen/openapi.h
$(B)/gen/openapi.c $(B)/gen/openapi.h $(B)/gen/openapi.json &: tools/gen_openapi.py lib/err.def \
		$(wildcard docs/openapi/*.yaml)
	$(call say,GEN,$(B)/gen/openapi.json)
	$(Q)$(PYTHON) tools/gen_openapi.py $(B)/gen
