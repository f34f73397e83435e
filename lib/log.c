/* Lines are built in place and written at once; every member passes the same escaping. */
#include "lib/log.h"

#include <stdarg.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/str.h"

enum { TAIL_BYTES = 24 }; /* room for ,"truncated":true} and the newline */

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *program_name = "";
static pid_t process_id;
static int log_fd = STDOUT_FILENO;

void log_open(const char *program)
{
    program_name = program;
    process_id = getpid();
}

void log_to_stderr(void)
{
    log_fd = STDERR_FILENO;
}

static bool is_muted(enum log_level level)
{
    const struct config *c = config();
    size_t i;

    for (i = 0; c != NULL && i < ARRAY_LEN(level_names); i++) {
        if (strcmp(c->log_level, level_names[i]) == 0) {
            return level < (enum log_level)i;
        }
    }
    return level < LOG_INFO;
}

/* Append bytes if they fit whole; otherwise the line counts as truncated. */
static bool put(struct log_line *l, const char *bytes, size_t len)
{
    if (l->truncated || len > sizeof(l->data) - TAIL_BYTES - l->len) {
        l->truncated = true;
        return false;
    }
    memcpy(l->data + l->len, bytes, len);
    l->len += len;
    return true;
}

static bool put_text(struct log_line *l, const char *text)
{
    return put(l, text, strlen(text));
}

/* Append text as the inside of a JSON string. Control characters (C0, DEL and C1) and bytes that
 * are not well-formed UTF-8 are written as \u00XX, so that no terminal and no parser is misled. */
static bool put_escaped(struct log_line *l, const char *text)
{
    size_t len = strlen(text);
    bool is_utf8 = utf8_valid(text, len);
    size_t i;

    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        char escape[8];
        bool is_plain = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f && (c < 0x80 || is_utf8);

        if (is_utf8 && c == 0xc2 && (unsigned char)text[i + 1] < 0xa0) {
            c = (unsigned char)text[++i]; /* U+0080 … U+009F: some terminals obey them */
            is_plain = false;
        }
        if (is_plain) {
            if (!put(l, text + i, 1)) {
                return false;
            }
            continue;
        }
        snprintf(escape, sizeof(escape), "\\u%04x", c);
        if (!put_text(l, escape)) {
            return false;
        }
    }
    return true;
}

static bool put_name(struct log_line *l, const char *name)
{
    return put_text(l, ",\"") && put_text(l, name) && put_text(l, "\":");
}

void log_str(struct log_line *l, const char *name, const char *value)
{
    size_t before = l->len;

    if (l->muted || value == NULL || l->truncated) {
        return;
    }
    if (!put_name(l, name) || !put_text(l, "\"") || !put_escaped(l, value) || !put_text(l, "\"")) {
        l->len = before;
    }
}

void log_i64(struct log_line *l, const char *name, int64_t value)
{
    char digits[24];
    size_t before = l->len;

    if (l->muted || l->truncated) {
        return;
    }
    snprintf(digits, sizeof(digits), "%lld", (long long)value);
    if (!put_name(l, name) || !put_text(l, digits)) {
        l->len = before;
    }
}

void log_begin(struct log_line *l, enum log_level level, const char *event)
{
    char time[CLOCK_TEXT_SIZE];

    l->muted = is_muted(level);
    l->truncated = false;
    l->len = 0;
    if (l->muted) {
        return;
    }
    clock_format(clock_wall_ms(), time);
    put_text(l, "{\"time\":\"");
    put_text(l, time);
    put_text(l, "\"");
    log_str(l, "level", level_names[level]);
    log_str(l, "program", program_name);
    log_str(l, "instance", config() == NULL ? NULL : config()->instance_id);
    log_i64(l, "pid", process_id == 0 ? getpid() : process_id);
    log_str(l, "event", event);
}

void log_end(struct log_line *l)
{
    const char *tail = l->truncated ? ",\"truncated\":true}\n" : "}\n";
    ssize_t ignored;

    if (l->muted) {
        return;
    }
    memcpy(l->data + l->len, tail, strlen(tail)); /* TAIL_BYTES are kept free for it */
    ignored = write(log_fd, l->data, l->len + strlen(tail));
    (void)ignored; /* there is nowhere to tell it */
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    char message[1024];
    struct log_line l;
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    log_begin(&l, level, event);
    log_str(&l, "message", message);
    log_end(&l);
}
