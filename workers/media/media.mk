# maxbooster-media: libav from its static archives, so that only what formats.def lists is linked in.
#
# The archives hold position-dependent code, hence -no-pie. LAME, Opus and Vorbis are named by their
# run-time files: their -dev packages are not needed. Of aubio only its beat tracker is linked in.

LIBS_MEDIA := -no-pie -Wl,--gc-sections -l:libavfilter.a -l:libavformat.a -l:libavcodec.a -l:libswresample.a \
              -l:libavutil.a -l:libmp3lame.so.0 -l:libopus.so.0 -l:libvorbis.so.0 -l:libvorbisenc.so.2 \
              -l:libebur128.so.1 -l:libaubio.a -l:libfftw3f.so.3 \
              -lseccomp -lpng -lz -lm

# One thread, position-dependent code: nothing for ThreadSanitizer, which could not load it either.
MEDIA_SANFLAGS := $(filter-out -fsanitize=thread,$(SANFLAGS))
$(B)/obj/workers/media/%.o $(B)/test/workers/media/%: SANFLAGS := $(MEDIA_SANFLAGS)
$(B)/bin/maxbooster-media: SANFLAGS := $(MEDIA_SANFLAGS)

# Loops over samples, which vector instructions do several times faster.
$(B)/obj/workers/media/mix.o $(B)/obj/workers/media/limiter.o: CFLAGS += -O3

$(B)/bin/maxbooster-media: $(call obj,$(MEDIA_SRC))
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_MEDIA)
$(B)/test/workers/media/%: $(B)/obj/workers/media/%.o $(B)/media.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS_MEDIA)
# It asks libavformat by itself, whose own list of formats must not come first.
$(B)/test/workers/media/test_m4a: $(B)/obj/workers/media/formats.o

# Runs media_run() on local files; for integration/test_media.py and for measuring.
$(B)/bin/media-driver: $(B)/obj/loadtest/media_driver.o $(B)/lib.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)
