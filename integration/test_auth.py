"""Accounts, sessions and passwords."""
import statistics
import threading
import time

import pytest

from harness import mail
from harness.client import Client, User, patiently, random_address, random_email

GOOD = "a quiet harbour at dawn"


def register(client, **changes):
    """The reply of register with these fields changed; None leaves one out."""
    body = {"email": random_email(), "password": GOOD, "name": "Nina"}
    body.update(changes)
    body = {name: value for name, value in body.items() if value is not None}
    return patiently(lambda: client.post("/api/auth/register", body))


# Register

def test_register_gives_the_user_without_any_secret(api):
    email = random_email()
    reply = register(api, email=email)
    assert reply.status == 201
    assert reply.json["email"] == email
    assert reply.json["role"] == "artist"
    assert "password" not in reply.text


def test_register_places_the_user_on_the_shard_of_his_id(stack, api):
    reply = register(api)
    user_id = reply.json["id"]
    shard = stack.shard_of(user_id)
    for number in range(len(stack.shard_urls())):
        rows = stack.sql(number, "SELECT 1 FROM users WHERE id = %s", user_id)
        assert len(rows) == (1 if number == shard else 0)


def test_password_is_stored_as_argon2id_only(stack, api):
    reply = register(api)
    user_id = reply.json["id"]
    [(row,)] = stack.sql(stack.shard_of(user_id), "SELECT u::text FROM users u WHERE id = %s",
                         user_id)
    assert "$argon2id$v=19$m=" in row
    assert GOOD not in row


def test_an_address_can_be_registered_once_only_whatever_its_case(api):
    email = random_email()
    assert register(api, email=email).status == 201
    for again in (email, email.upper(), email.title()):
        reply = register(api, email=again)
        assert (reply.status, reply.code) == (409, "conflict")


def test_of_many_registering_one_address_at_once_one_wins(stack):
    email = random_email()
    statuses = []

    def one():
        statuses.append(register(stack.client(), email=email).status)
    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 409, 409, 409, 409, 409]


@pytest.mark.parametrize("changes,violation", [
    ({"email": None}, ("email", "required")), ({"password": None}, ("password", "required")),
    ({"name": None}, ("name", "required")), ({"email": 7}, ("email", "type")),
    ({"password": ["x"]}, ("password", "type")), ({"name": {}}, ("name", "type")),
    ({"password": "short"}, ("password", "length")), ({"password": "x" * 129},
                                                      ("password", "length")),
    ({"name": ""}, ("name", "length")), ({"name": "n" * 101}, ("name", "length")),
    ({"password": "password"}, ("password", "breached")), ({"password": "12345678"},
                                                           ("password", "breached")),
    ({"password": "QWERTY123"}, ("password", "breached")), ({"role": "admin"}, ("role", "unknown")),
    ({"id": "0199aa0c-5e1f-7c31-8a52-1f0b3c4d5e6f"}, ("id", "unknown"))])
def test_register_names_the_field_and_what_is_wrong_with_it(api, changes, violation):
    reply = register(api, **changes)
    assert reply.status == 422
    assert reply.violations == {violation}


@pytest.mark.parametrize("email", ["nobody", "@example.org", "nobody@", "a b@example.org",
                                   "a@b@example.org",
                                   "a\u0000b@example.org", "a@example.org\r\nBcc: x@example.org",
                                   "a@exa mple.org", "<a@example.org>", "a@.org", "a@example..org",
                                   '"a"@example.org,b@example.org', "x" * 250 + "@example.org"])
def test_register_refuses_what_is_no_address(api, email):
    reply = register(api, email=email)
    assert reply.status == 422
    assert {field for field, _ in reply.violations} == {"email"}


def test_all_violations_are_told_at_once(api):
    reply = register(api, email=None, password="short", role="admin")
    assert reply.violations == {("email", "required"), ("password", "length"), ("role", "unknown")}


def test_password_length_counts_characters_not_bytes(api):
    assert register(api, password="ß" * 128).status == 201
    assert register(api, password="é" * 7).violations == {("password", "length")}


def test_names_keep_every_letter(api):
    name = "Zoë 山田 O'Brien <b>\"&\" 🎸"
    assert register(api, name=name).json["name"] == name


@pytest.mark.parametrize("name", ["line\nbreak", "bell\u0007", "\u0000", "   "])
def test_names_hold_no_control_characters_and_are_not_blank(api, name):
    assert register(api, name=name).status == 422


# Login

def test_login_gives_a_token_and_the_same_as_a_cookie(stack, user):
    reply = user.login()
    assert reply.status == 200
    cookie = next(c for c in reply.set_cookies if c.startswith("session="))
    assert cookie.split(";")[0] == "session=" + reply.json["token"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert reply.json["user"]["id"] == user.id


def test_a_session_works_by_bearer_and_by_cookie(stack, user):
    stack.client(token=user.client.token).get("/api/auth/me", expect=200)
    stack.client().get("/api/auth/me", headers={"Cookie": f"session={user.client.token}"},
                       expect=200)


def test_login_takes_the_address_in_any_case(user):
    client = Client(user.base_url)
    body = {"email": user.email.upper(), "password": user.password}
    assert patiently(lambda: client.post("/api/auth/login", body)).status == 200


def test_every_login_gives_another_token(user):
    tokens = {user.login().json["token"] for _ in range(3)} | {user.client.token}
    assert len(tokens) == 4


def test_login_with_an_old_session_ends_that_one(stack, user):
    """Rotation: what a client held before it logged in is worth nothing afterwards."""
    before = user.client.token
    reply = patiently(lambda: stack.client().post(
        "/api/auth/login", {"email": user.email, "password": user.password},
        headers={"Cookie": f"session={before}"}))
    assert reply.status == 200
    stack.client(token=reply.json["token"]).get("/api/auth/me", expect=200)
    stack.client(token=before).get("/api/auth/me", expect=401)


def test_wrong_password_and_unknown_address_get_the_same_answer(stack, user):
    def answer(email):
        client = stack.client()
        reply = patiently(lambda: client.post("/api/auth/login",
                                              {"email": email, "password": "not this one"}))
        own = {"instance", "requestId"}
        return reply.status, {k: v for k, v in reply.json.items() if k not in own}
    known, unknown = answer(user.email), answer(random_email())
    assert known == unknown
    assert known[0] == 401


def test_wrong_password_and_unknown_address_take_the_same_time(stack, user):
    """Medians of interleaved tries; a missing hash would be tens of milliseconds apart."""
    def seconds(email):
        client = stack.client()
        start = time.perf_counter()
        reply = client.post("/api/auth/login", {"email": email, "password": "not this one"})
        return time.perf_counter() - start if reply.status == 401 else None
    known, unknown = [], []
    for _ in range(24):
        for times, email in ((known, user.email), (unknown, random_email())):
            took = seconds(email)
            if took is not None:
                times.append(took)
    a, b = statistics.median(known), statistics.median(unknown)
    assert abs(a - b) < 0.5 * max(a, b), (a, b)


def test_guessing_is_slowed_per_account_and_address_and_locks_nobody_out(stack, user):
    address = random_address()
    guesser = stack.client(address=address)
    body = {"email": user.email, "password": "a wrong guess"}
    most = int(stack.env.get("LOGIN_FAILURES_MAX", "5"))
    statuses = [patiently(lambda: guesser.post("/api/auth/login", body)).status
                for _ in range(most + 3)]
    assert statuses[:most] == [401] * most
    assert statuses[most:] == [429] * 3
    assert user.login(address=address).status == 429, "the right password is slowed there too"
    assert user.login(address=random_address()).status == 200, "from elsewhere it is not"
    stranger = User(user.base_url)
    assert stranger.login(address=address).status == 200, "and another account is not"


def test_guessing_at_an_unknown_address_looks_the_same(stack):
    guesser, body = stack.client(), {"email": random_email(), "password": "a wrong guess"}
    most = int(stack.env.get("LOGIN_FAILURES_MAX", "5"))
    statuses = [patiently(lambda: guesser.post("/api/auth/login", body)).status
                for _ in range(most + 2)]
    assert statuses == [401] * most + [429] * 2


def test_a_successful_login_is_no_failure(user):
    address = random_address()
    for _ in range(8):
        assert user.login(address=address).status == 200


def test_a_breached_password_can_still_be_typed_wrongly(stack, user):
    """The rules of new passwords are no oracle at login."""
    reply = patiently(lambda: stack.client().post(
        "/api/auth/login", {"email": user.email, "password": "password"}))
    assert reply.status == 401


# Sessions

@pytest.mark.parametrize("token", ["", "x", "A" * 64, "A" * 10000, "ä", "../../etc/passwd", "a.b.c",
                                   "null", "*", "\t"])
def test_a_token_that_is_none_gets_401(stack, token):
    reply = stack.client().get("/api/auth/me",
                               headers={"Authorization": b"Bearer " + token.encode()})
    assert reply.status in (401, 400, 431), reply
    assert "WWW-Authenticate" in reply.headers or reply.status != 401


def test_no_token_gets_401_with_the_way_to_authenticate(api):
    reply = api.get("/api/auth/me", expect=401)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_with_one_letter_changed_is_worth_nothing(stack, user):
    token = user.client.token
    for i in range(0, len(token), 5):
        changed = token[:i] + ("A" if token[i] != "A" else "B") + token[i + 1:]
        stack.client(token=changed).get("/api/auth/me", expect=401)
    stack.client(token=token).get("/api/auth/me", expect=200)


def test_a_token_of_one_user_with_the_secret_of_another_is_worth_nothing(stack, user, other):
    mine, theirs = user.client.token, other.client.token
    for cut in range(8, len(mine) - 8, 6):
        stack.client(token=mine[:cut] + theirs[cut:]).get("/api/auth/me", expect=401)


def test_the_secret_of_a_session_is_not_in_redis(stack, user):
    token = user.client.token
    connection = stack.redis()
    keys = list(connection.scan_iter(match="session:{%s}*" % user.id, count=1000))
    assert keys
    for key in connection.scan_iter(match=f"*{user.id}*", count=1000):
        dump = key + (connection.dump(key) or b"")
        assert token.encode() not in dump
        assert token[-32:].encode() not in dump


def test_sessions_are_listed_with_the_current_one_marked(user):
    second = user.second_client()
    sessions = second.get("/api/auth/sessions", expect=200).json["items"]
    assert len(sessions) == 2
    current = [s for s in sessions if s["current"]]
    assert len(current) == 1
    assert current[0]["address"] == second.address
    assert current[0]["userAgent"] == "integration/1"


def test_a_session_can_be_ended_from_another(user):
    second = user.second_client()
    mine = next(s for s in second.get("/api/auth/sessions").json["items"] if not s["current"])
    second.delete(f"/api/auth/sessions/{mine['id']}", expect=204)
    user.client.get("/api/auth/me", expect=401)
    second.get("/api/auth/me", expect=200)
    second.delete(f"/api/auth/sessions/{mine['id']}", expect=404)


def test_the_operators_tool_ends_all_sessions_of_a_user(stack, user, other):
    second = user.second_client()
    done = stack.ctl("sessions", "revoke", user.id)
    assert done.returncode == 0, done.stdout + done.stderr
    for client in (user.client, second):
        client.get("/api/auth/me", expect=401)
    other.client.get("/api/auth/me", expect=200)
    user.second_client().get("/api/auth/me", expect=200)


def test_another_users_session_cannot_be_ended(user, other):
    theirs = other.client.get("/api/auth/sessions").json["items"][0]
    user.client.delete(f"/api/auth/sessions/{theirs['id']}", expect=404)
    other.client.get("/api/auth/me", expect=200)


def test_logout_ends_this_session_only_and_clears_the_cookie(user):
    second = user.second_client()
    reply = user.client.post("/api/auth/logout", expect=204)
    cookie = next(c for c in reply.set_cookies if c.startswith("session="))
    assert "Max-Age=0" in cookie or "1970" in cookie
    user.client.get("/api/auth/me", expect=401)
    second.get("/api/auth/me", expect=200)


def test_logout_all_ends_every_session(user):
    others = [user.second_client() for _ in range(2)]
    user.client.post("/api/auth/logout-all", {}, expect=204)
    for client in [user.client, *others]:
        client.get("/api/auth/me", expect=401)


def test_logout_all_ends_more_sessions_than_one_command_of_redis_takes(user):
    clients = [user.second_client() for _ in range(70)]
    clients[35].post("/api/auth/logout-all", expect=204)
    for client in [user.client, *clients]:
        client.get("/api/auth/me", expect=401)


@pytest.mark.parametrize("body", [None, {}])
def test_a_body_that_is_not_needed_may_be_absent_or_empty(user, body):
    user.client.post("/api/auth/logout", body, expect=204)


def test_a_body_where_none_is_needed_still_has_no_unknown_fields(user):
    reply = user.client.post("/api/auth/logout", {"everywhere": True}, expect=422)
    assert reply.violations == {("everywhere", "unknown")}
    user.client.get("/api/auth/me", expect=200)


# Me

def test_me_can_be_renamed(client):
    before = client.get("/api/auth/me", expect=200)
    after = client.patch("/api/auth/me", {"name": "New Name"}, expect=200)
    assert after.json["name"] == "New Name"
    assert after.json["updatedAt"] >= before.json["updatedAt"]
    assert after.headers["ETag"] != before.headers["ETag"]
    assert client.get("/api/auth/me").json == after.json


@pytest.mark.parametrize("field", ["id", "role", "createdAt", "passwordHash", "version"])
def test_me_takes_no_field_that_is_not_ours_to_change(client, field):
    reply = client.patch("/api/auth/me", {"name": "X", field: "admin"}, expect=422)
    assert reply.violations == {(field, "unknown")}
    assert client.get("/api/auth/me").json["name"] == "Test Artist"


def test_me_honours_if_match(client):
    tag = client.get("/api/auth/me").headers["ETag"]
    client.patch("/api/auth/me", {"name": "One"}, headers={"If-Match": tag}, expect=200)
    reply = client.patch("/api/auth/me", {"name": "Two"}, headers={"If-Match": tag}, expect=412)
    assert reply.code == "precondition_failed"
    client.patch("/api/auth/me", {"name": "Three"}, headers={"If-Match": "*"}, expect=200)
    assert client.get("/api/auth/me").json["name"] == "Three"


# Origin

@pytest.mark.parametrize("headers,status", [
    ({}, 200), ({"Origin": "{own}"}, 200), ({"Sec-Fetch-Site": "same-origin"}, 200),
    ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403),
    ({"Origin": "{own}.evil.example"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://evil.example"}, 403)])
def test_a_cookie_is_good_for_unsafe_requests_of_our_own_origin_only(stack, user, headers, status):
    sent = {name: value.replace("{own}", stack.url) for name, value in headers.items()}
    sent["Cookie"] = f"session={user.client.token}"
    reply = stack.client().patch("/api/auth/me", {"name": "By cookie"}, headers=sent, expect=status)
    if status == 403:
        assert user.client.get("/api/auth/me").json["name"] == "Test Artist"
        assert reply.json["status"] == 403


def test_a_bearer_token_is_good_from_any_origin(user):
    user.client.patch("/api/auth/me", {"name": "Elsewhere"},
                      headers={"Origin": "https://app.example"}, expect=200)


def test_reading_with_a_cookie_from_another_origin_is_no_change_and_passes(stack, user):
    stack.client().get("/api/auth/me", headers={"Cookie": f"session={user.client.token}",
                                               "Origin": "https://evil.example"}, expect=200)


# Passwords

def change(client, old, new, **options):
    """The reply of password/change."""
    return patiently(lambda: client.post(
        "/api/auth/password/change", {"currentPassword": old, "newPassword": new}, **options))


def test_password_change_keeps_this_session_and_ends_the_others(user):
    second = user.second_client()
    assert change(user.client, user.password, "another quiet harbour").status == 204
    second.get("/api/auth/me", expect=401)
    user.client.get("/api/auth/me", expect=200)
    assert user.login().status == 401
    assert user.login(password="another quiet harbour").status == 200


def test_password_change_needs_the_current_password(user):
    reply = change(user.client, "not this one", "another quiet harbour")
    assert reply.status == 422
    assert reply.violations == {("currentPassword", "value")}
    assert user.login().status == 200


@pytest.mark.parametrize("new,code", [("short", "length"), ("x" * 129, "length"),
                                      ("password1", "breached")])
def test_password_change_keeps_the_rules(user, new, code):
    reply = change(user.client, user.password, new)
    assert reply.violations == {("newPassword", code)}


def test_forgot_answers_the_same_for_known_and_unknown_addresses(stack, user):
    client = stack.client()
    for email in (user.email, random_email()):
        reply = client.post("/api/auth/password/forgot", {"email": email}, expect=202)
        assert reply.content == b""


def reset(stack, token, password):
    """The reply of password/reset."""
    client = stack.client()
    return patiently(lambda: client.post(
        "/api/auth/password/reset", {"token": token, "password": password}))


def test_a_forgotten_password_is_reset_by_the_mail_and_all_sessions_end(stack, user, mailbox):
    second = user.second_client()
    stack.client().post("/api/auth/password/forgot", {"email": user.email.upper()}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    assert reset(stack, token, "a harbour in the rain").status == 204
    for client in (user.client, second):
        client.get("/api/auth/me", expect=401)
    assert user.login().status == 401
    assert user.login(password="a harbour in the rain").status == 200
    again = reset(stack, token, "a harbour in the snow")
    assert again.status == 422
    assert {field for field, _ in again.violations} == {"token"}


def test_a_reset_that_breaks_the_rules_does_not_use_up_the_token(stack, user, mailbox):
    stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    assert reset(stack, token, "short").violations == {("password", "length")}
    assert reset(stack, token, "a harbour in the rain").status == 204


def test_a_used_token_spoils_the_older_ones(stack, user, mailbox):
    tokens = []
    for count in (1, 2):
        stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
        tokens.append(mail.reset_token_of(mailbox.wait_for(user.email, "password", count=count)))
    assert tokens[0] != tokens[1]
    assert reset(stack, tokens[1], "a harbour in the rain").status == 204
    assert reset(stack, tokens[0], "a harbour in the snow").status == 422


def test_a_changed_password_spoils_the_tokens_of_mails(stack, user, mailbox):
    stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    user.client.post("/api/auth/password/change",
                     {"currentPassword": user.password, "newPassword": "a lighthouse at noon"},
                     expect=204)
    assert reset(stack, token, "a harbour in the snow").status == 422
    assert user.login(password="a lighthouse at noon").status == 200


def test_of_many_using_one_token_at_once_one_wins(stack, user, mailbox):
    stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    statuses = []
    threads = [threading.Thread(target=lambda n=n: statuses.append(
        reset(stack, token, f"a harbour number {n}").status)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [204, 422, 422, 422]


@pytest.mark.parametrize("token", ["x", "A" * 64, "ÄÖÜ", "A" * 256])
def test_an_invented_reset_token_is_refused(stack, token):
    reply = reset(stack, token, "a harbour in the rain")
    assert reply.status == 422
    assert {field for field, _ in reply.violations} == {"token"}


def test_the_reset_token_is_stored_as_a_hash_only(stack, user, mailbox):
    stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    rows = stack.sql(stack.shard_of(user.id),
                     "SELECT r::text FROM password_resets r WHERE user_id = %s", user.id)
    assert rows
    assert all(token not in row and token[-20:] not in row for (row,) in rows)


def test_registration_is_welcomed_by_mail(user, mailbox):
    message = mailbox.wait_for(user.email, "welcome")
    assert user.name in mail.text_of(message)
    assert message.get_body(preferencelist=("html",)) is not None


def test_a_name_cannot_add_headers_to_a_mail(stack, mailbox):
    account = stack.user(name="Eve <eve@example.org> =?utf-8?q?Bcc:?=")
    message = mailbox.wait_for(account.email, "welcome")
    assert message["Bcc"] is None
    assert message["X-Envelope-To"] == account.email
