"""Public profiles and the search over all shards."""
import uuid

import pytest


def test_a_profile_shows_name_and_age_of_an_account_and_nothing_private(user, other):
    profile = user.client.get(f"/api/users/{other.id}", expect=200).json
    assert set(profile) == {"id", "name", "createdAt"}
    assert profile["name"] == other.name


def test_a_profile_that_is_not_there_is_404(client):
    client.get(f"/api/users/{uuid.UUID('0199aa0c-5e1f-7c31-8a52-1f0b3c4d5e6f')}", expect=404)


@pytest.mark.parametrize("bad", ["1", "me", "0199AA0C-5E1F-7C31-8A52-1F0B3C4D5E6F",
                                 "0199aa0c5e1f7c318a521f0b3c4d5e6f",
                                 "0199aa0c-5e1f-7c31-8a52-1f0b3c4d5e6",
                                 "0199aa0c-5e1f-4c31-8a52-1f0b3c4d5e6f",
                                 "%00", "*", "'--", "..%2f..%2fetc"])
def test_what_is_no_id_is_404(client, bad):
    client.get(f"/api/users/{bad}", expect=(404, 400))


def test_an_owned_id_is_no_user(client):
    client.get("/api/users/9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e", expect=404)


@pytest.fixture(scope="module")
def band(stack):
    """Seven users of one rare name, over the shards."""
    word = "Quartett" + uuid.uuid4().hex[:8]
    return word, [stack.user(name=f"{word} {n}", login=False) for n in range(7)]


def test_search_finds_users_of_all_shards(stack, client, band):
    word, members = band
    assert len({stack.shard_of(m.id) for m in members}) > 1 or len(stack.shard_urls()) == 1
    found = client.get(f"/api/users/search?q={word}", expect=200).json
    assert {item["id"] for item in found["items"]} == {m.id for m in members}
    assert found["partial"] is False
    assert found["shardsFailed"] == 0


def test_search_ignores_case(client, band):
    word, members = band
    found = client.get(f"/api/users/search?q={word.upper()}", expect=200).json
    assert len(found["items"]) == len(members)


def test_search_pages_show_everyone_once(client, band):
    word, members = band
    seen, path = [], f"/api/users/search?q={word}&limit=3"
    for _ in range(5):
        page = client.get(path, expect=200).json
        assert len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        path = f"/api/users/search?q={word}&limit=3&cursor={page['nextCursor']}"
    assert sorted(seen) == sorted(m.id for m in members)


@pytest.mark.parametrize("query,violation", [
    ("", ("q", "required")), ("q=", ("q", "length")), ("q=" + "x" * 101, ("q", "length")),
    ("q=ab&limit=0", ("limit", "range")), ("q=ab&limit=101", ("limit", "range")),
    ("q=ab&limit=two", ("limit", "range")), ("q=ab&cursor=%21", ("cursor", "format")),
    ("q=ab&q=cd", ("q", "duplicate")), ("q=ab&sort=name", ("sort", "unknown"))])
def test_search_names_the_parameter_and_what_is_wrong_with_it(client, query, violation):
    reply = client.get(f"/api/users/search?{query}", expect=422)
    found = {(f, c if f != "limit" else "range") for f, c in reply.violations}
    assert found == {violation}


@pytest.mark.parametrize("q", ["%25", "_", "%27%3b--", "%5c", "%F0%9F%8E%B8"])
def test_search_takes_signs_of_the_database_as_text(client, band, q):
    word, _ = band
    found = client.get(f"/api/users/search?q={word}{q}", expect=200).json
    assert found["items"] == []


def test_search_needs_a_session(api):
    api.get("/api/users/search?q=nina", expect=401)
