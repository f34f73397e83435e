"""kill -9 of the API between the commit and the reply: the same request again gets the answer that was
never sent, and the effect is there once."""
import contextlib
import json
import threading
import uuid

import psycopg2
import pytest
import requests

from harness import audio, tracks
from harness.client import Client, patiently
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("private")]

WITHIN_S = 30
BODY = {"fileName": "song.mp3", "contentType": "audio/mpeg", "size": 1000}
# The commit of an answer waits for a lock that the test holds: the API waits for the commit, and is
# killed; then the database goes on and commits. Claims (status 102) are no answers.
GATE = 4711
GATED_COMMIT = f"""
CREATE OR REPLACE FUNCTION test_gate() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER test_gate AFTER INSERT OR UPDATE ON idempotency
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status <> 102)
    EXECUTE FUNCTION test_gate()"""
AT_GATE = ("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND "
           f"objid = {GATE}")


@pytest.fixture(name="account")
def _account(private):
    account = private.user()
    yield account
    private.wait_ready()
    account.close()


@contextlib.contextmanager
def gate(stack):
    """Answers cannot be committed, on any shard; gives what opens the gate."""
    urls = stack.shard_urls()
    for shard in range(len(urls)):
        stack.sql(shard, GATED_COMMIT)
    holders = [psycopg2.connect(url) for url in urls]
    try:
        for holder in holders:
            holder.cursor().execute("SELECT pg_advisory_lock(%s)", (GATE,))
        yield lambda: [holder.close() for holder in holders]
    finally:
        for holder in holders:
            holder.close()
        for shard in range(len(urls)):
            stack.sql(shard, "DROP FUNCTION test_gate() CASCADE")


def on_some_shard(stack, statement, *args):
    """Rows of a statement from all shards."""
    return [row for shard in range(len(stack.shard_urls())) for row in stack.sql(shard, statement, *args)]


def kill_at_commit(stack, client, method, path, body, headers):
    """The request, whose API process dies while its commit is under way."""
    got = []

    def ask():
        with contextlib.suppress(requests.RequestException):
            got.append(Client(client.base_url, client.address, client.token).request(
                method, path, json=body, headers=headers, checked=False))
    with gate(stack) as open_gate:
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: on_some_shard(stack, AT_GATE), WITHIN_S, "the commit")
        for process in stack.api_workers():
            stack.kill(process.pid)
        open_gate()
        thread.join(WITHIN_S)
        wait_until(lambda: on_some_shard(
            stack, "SELECT 1 FROM idempotency WHERE key = %s AND status <> 102",
            headers["Idempotency-Key"]), WITHIN_S, "the commit to be done")
    stack.wait_ready()
    # The proxy itself asks again where the method allows that: a DELETE meets the first's key.
    assert all(reply.status >= 500 or (method == "DELETE" and reply.status in (204, 409))
               for reply in got), got


def again(client, method, path, body, headers):
    """The same request, once the stack answers."""
    def answered():
        try:
            reply = client.request(method, path, json=body, headers=headers)
        except requests.RequestException:
            return None
        return reply if reply.status < 500 else None
    return wait_until(answered, WITHIN_S, f"{method} {path}", every=0.2)


def stored_answer(stack, headers):
    """(status, body) as the killed process stored it."""
    ((status, body),) = on_some_shard(stack, "SELECT status, body FROM idempotency WHERE key = %s",
                                      headers["Idempotency-Key"])
    return status, body


def audio_ids(client):
    """Ids of the account's files."""
    return [f["id"] for f in client.get("/api/audio").json["items"]]


def of_upload_url(_stack, account):
    """One upload is begun."""
    return "POST", "/api/audio/upload-url", BODY, lambda: len(audio_ids(account.client)) == 1


def of_rename(stack, account):
    """One event tells of one change."""
    return "PATCH", "/api/auth/me", {"name": "Killed"}, lambda: stack.sql(
        stack.shard_of(account.id), "SELECT count(*) FROM outbox WHERE user_id = %s AND type = "
        "'user.renamed'", account.id) == [(1,)]


def of_completion(stack, account):
    """One analysis is begun."""
    grant = audio.store(account.client, "a.mp3", tracks.short_mp3())
    return "POST", "/api/audio/complete-upload", {"key": grant["key"]}, lambda: stack.sql(
        stack.shard_of(account.id), "SELECT count(*) FROM jobs WHERE user_id = %s AND type = "
        "'audio-analyse'", account.id) == [(1,)]


def of_job(stack, account):
    """One job is promised."""
    file = audio.upload(account.client, "a.mp3", tracks.short_mp3())
    return "POST", "/api/audio/waveform", {"fileId": file["id"]}, lambda: stack.sql(
        stack.shard_of(account.id), "SELECT count(*) FROM jobs WHERE user_id = %s AND type = "
        "'audio-waveform'", account.id) == [(1,)]


def of_multipart(_stack, account):
    """One chunked upload is begun."""
    return "POST", "/api/uploads/multipart", BODY, lambda: len(audio_ids(account.client)) == 1


def of_joining(_stack, account):
    """The parts become one file."""
    client, data = account.client, tracks.short_mp3()
    upload = client.post("/api/uploads/multipart", BODY | {"size": len(data)}, expect=201).json
    path = f"/api/uploads/multipart/{upload['id']}"
    part = client.post(f"{path}/parts", {"partNumbers": [1]}, expect=200).json["parts"][0]
    assert requests.put(part["url"], data=data, timeout=30).status_code == 200
    return "POST", f"{path}/complete", {}, lambda: audio_ids(client) == [upload["fileId"]]


def of_abort(_stack, account):
    """Nothing is left."""
    upload = account.client.post("/api/uploads/multipart", BODY, expect=201).json
    return "DELETE", f"/api/uploads/multipart/{upload['id']}", None, lambda: not audio_ids(
        account.client)


def of_deletion(_stack, account):
    """The file is gone."""
    grant = account.client.post("/api/audio/upload-url", BODY, expect=201).json
    return "DELETE", f"/api/audio/{grant['fileId']}", None, lambda: not audio_ids(account.client)


def of_password(_stack, account):
    """The new password is the one."""
    body = {"currentPassword": account.password, "newPassword": "an anchor in the sand"}
    return "POST", "/api/auth/password/change", body, lambda: account.login(
        password="an anchor in the sand").status == 200


ROUTES = [of_upload_url, of_rename, of_completion, of_job, of_multipart, of_joining, of_abort, of_deletion,
          of_password]


@pytest.mark.parametrize("prepare", ROUTES, ids=[p.__name__[3:] for p in ROUTES])
def test_the_answer_that_was_never_sent_is_sent_the_next_time(private, account, prepare):
    method, path, body, is_once = prepare(private, account)
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    kill_at_commit(private, account.client, method, path, body, headers)
    status, text = stored_answer(private, headers)
    reply = again(account.client, method, path, body, headers)
    assert (reply.status, reply.text) == (status, text)
    assert reply.headers["Idempotency-Replayed"] == "true"
    assert is_once()
    if text:
        json.loads(text)


def test_a_registration_that_was_never_answered_is_answered_the_next_time(private):
    client, headers = private.client(), {"Idempotency-Key": str(uuid.uuid4())}
    body = {"email": f"{uuid.uuid4().hex}@example.org", "password": "a quiet harbour at dawn",
            "name": "Nina"}
    kill_at_commit(private, client, "POST", "/api/auth/register", body, headers)
    _, text = stored_answer(private, headers)

    def answered():
        reply = client.post("/api/auth/register", body, headers=headers, checked=False)
        return reply if reply.status == 201 else None
    # Until the reservation of the address is stale, another process may still be at work on it.
    assert wait_until(answered, 90, "the answer", every=1).text == text
    assert len(on_some_shard(private, "SELECT 1 FROM users WHERE email = %s", body["email"])) == 1


@pytest.mark.parametrize("path", ["/api/auth/logout", "/api/auth/logout-all"])
def test_a_log_out_that_was_never_answered_is_answered_although_the_session_is_gone(
        private, account, path):
    client, headers = account.second_client(), {"Idempotency-Key": str(uuid.uuid4())}
    kill_at_commit(private, client, "POST", path, None, headers)
    assert again(client, "POST", path, None, headers).status == 204
    assert again(client, "GET", "/api/auth/me", None, {}).status == 401


def test_work_that_died_before_its_end_is_done_by_the_next_try(private, account):
    """The claim is there and nothing else. Until it is stale nobody can know that its process died."""
    grant = audio.store(account.client, "a.mp3", tracks.short_mp3())
    headers, body = {"Idempotency-Key": str(uuid.uuid4())}, {"key": grant["key"]}
    with private.frozen("s3"):
        def ask():
            with contextlib.suppress(requests.RequestException):
                account.client.post("/api/audio/complete-upload", body, headers=headers, checked=False)
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: on_some_shard(private, "SELECT 1 FROM idempotency WHERE key = %s AND status = "
                                         "102", headers["Idempotency-Key"]), WITHIN_S, "the claim")
        for process in private.api_workers():
            private.kill(process.pid)
        thread.join(WITHIN_S)
    private.wait_ready()
    client = Client(account.client.base_url, account.client.address, account.client.token)
    reply = again(client, "POST", "/api/audio/complete-upload", body, headers)
    assert (reply.status, reply.code) == (409, "idempotency_running")
    on_some_shard(private, "UPDATE idempotency SET created_at = created_at - interval '10 minutes' WHERE "
                  "key = %s RETURNING 1", headers["Idempotency-Key"])
    reply = patiently(lambda: client.post("/api/audio/complete-upload", body, headers=headers))
    assert reply.status == 201 and reply.json["id"] == grant["fileId"]
    assert client.post("/api/audio/complete-upload", body, headers=headers).content == reply.content


def test_a_log_out_that_died_after_its_effect_is_known_to_be_done(private, account):
    client, headers = account.second_client(), {"Idempotency-Key": str(uuid.uuid4())}
    client.post("/api/auth/logout", headers=headers, expect=204)
    on_some_shard(private, "UPDATE idempotency SET status = 102, body = 'dead' WHERE key = %s RETURNING 1",
                  headers["Idempotency-Key"])
    client.post("/api/auth/logout", headers=headers, expect=204)


def test_a_reply_that_the_client_never_read_is_the_same_the_next_time(private, account):
    """The connection is cut instead of the process."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    with gate(private) as open_gate:
        with pytest.raises(requests.Timeout):
            Client(account.client.base_url, account.client.address, account.client.token).request(
                "POST", "/api/audio/upload-url", json=BODY, headers=headers, timeout=0.5, checked=False)
        open_gate()
        wait_until(lambda: on_some_shard(private, "SELECT 1 FROM idempotency WHERE key = %s",
                                         headers["Idempotency-Key"]), WITHIN_S, "the commit")
    status, text = stored_answer(private, headers)
    reply = again(account.client, "POST", "/api/audio/upload-url", BODY, headers)
    assert (reply.status, reply.text) == (status, text)
    assert len(audio_ids(account.client)) == 1
