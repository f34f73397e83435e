/* Time stamps are counted here, from the samples themselves: what a file says of its time may have
 * holes. */
#include "workers/media/chain.h"

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavutil/channel_layout.h>

struct chain {
    AVFilterGraph *graph;
    AVFilterContext *source, *sink;
    AVFrame *in, *out;
    int64_t samples;
};

/* The graph's open ends, with the input's format set at its source. */
static enum media_fault make_ends(struct chain *c, const AVFrame *first)
{
    AVBufferSrcParameters *par = av_buffersrc_parameters_alloc();
    int rc;

    c->source = avfilter_graph_alloc_filter(c->graph, avfilter_get_by_name("abuffer"), "in");
    c->sink = avfilter_graph_alloc_filter(c->graph, avfilter_get_by_name("abuffersink"), "out");
    if (c->source == NULL || c->sink == NULL || par == NULL) {
        av_free(par);
        return MEDIA_FAULT_MEMORY;
    }
    par->format = first->format;
    par->sample_rate = first->sample_rate;
    par->time_base = (AVRational){1, first->sample_rate};
    rc = av_channel_layout_copy(&par->ch_layout, &first->ch_layout);
    rc = rc < 0 ? rc : av_buffersrc_parameters_set(c->source, par);
    rc = rc < 0 ? rc : avfilter_init_str(c->source, NULL);
    rc = rc < 0 ? rc : avfilter_init_str(c->sink, NULL);
    av_channel_layout_uninit(&par->ch_layout);
    av_free(par);
    return rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

static int parse(struct chain *c, const char *text)
{
    AVFilterInOut *inputs = avfilter_inout_alloc(), *outputs = avfilter_inout_alloc();
    int rc = AVERROR(ENOMEM);

    if (inputs != NULL && outputs != NULL) {
        outputs->name = av_strdup("in");
        outputs->filter_ctx = c->source;
        inputs->name = av_strdup("out");
        inputs->filter_ctx = c->sink;
        rc = avfilter_graph_parse_ptr(c->graph, text, &inputs, &outputs, NULL);
        rc = rc < 0 ? rc : avfilter_graph_config(c->graph, NULL);
    }
    avfilter_inout_free(&inputs);
    avfilter_inout_free(&outputs);
    return rc;
}

enum media_fault chain_open(const AVFrame *first, const char *text, struct chain **chain_out)
{
    struct chain *c = av_mallocz(sizeof(*c));
    enum media_fault f;
    int rc;

    *chain_out = c;
    if (c == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    c->in = av_frame_alloc();
    c->out = av_frame_alloc();
    c->graph = avfilter_graph_alloc();
    if (c->in == NULL || c->out == NULL || c->graph == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    c->graph->nb_threads = 1;
    f = make_ends(c, first);
    if (f != MEDIA_OK) {
        return f;
    }
    rc = parse(c, text);
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

static enum media_fault judge(int rc)
{
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

enum media_fault chain_feed(struct chain *c, const AVFrame *frame)
{
    int rc;

    if (frame == NULL) {
        return judge(av_buffersrc_add_frame(c->source, NULL));
    }
    rc = av_frame_ref(c->in, frame);
    if (rc >= 0) {
        c->in->pts = c->samples;
        c->samples += frame->nb_samples;
        rc = av_buffersrc_add_frame(c->source, c->in);
        av_frame_unref(c->in);
    }
    return judge(rc);
}

enum media_fault chain_next(struct chain *c, AVFrame **frame_out)
{
    int rc;

    av_frame_unref(c->out);
    rc = av_buffersink_get_frame(c->sink, c->out);
    *frame_out = rc >= 0 ? c->out : NULL;
    return rc == AVERROR(EAGAIN) || rc == AVERROR_EOF ? MEDIA_OK : judge(rc);
}

void chain_close(struct chain **chain)
{
    struct chain *c = *chain;

    *chain = NULL;
    if (c != NULL) {
        av_frame_free(&c->in);
        av_frame_free(&c->out);
        avfilter_graph_free(&c->graph);
        av_free(c);
    }
}
