/* A mail is a job like any other: a row first, then a push that may be lost. */
#include "handlers/mail.h"

#include "lib/pg.h"
#include "lib/queue.h"
#include "lib/str.h"
#include "queries.h"

enum err mail_promise(struct scope *sc, struct place place, struct id user, const char *template,
                      const char *email, const char *name, struct id *job_out)
{
    struct strbuf payload;

    strbuf_init(&payload, sc->arena, 256);
    strbuf_puts(&payload, "{\"template\":");
    strbuf_json(&payload, template);
    strbuf_puts(&payload, ",\"email\":");
    strbuf_json(&payload, email);
    if (name != NULL) {
        strbuf_puts(&payload, ",\"name\":");
        strbuf_json(&payload, name);
    }
    strbuf_putc(&payload, '}');
    *job_out = id_make_owned(place);
    return pg_exec(sc,
                   q_jobs_insert(sc, *job_out, user, job_type(JOB_EMAIL_SEND)->name, payload.data,
                                 sc->traceparent, ABSENT_I64),
                   NULL);
}

void mail_push(struct scope *sc, struct id job, struct id user)
{
    (void)!queue_push(sc, JOB_EMAIL_SEND, job, user);
    scope_forgive(sc);
}
