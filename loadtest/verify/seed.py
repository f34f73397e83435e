"""Fills a fleet with users who have been there for a while: accounts, tracks, jobs, sessions.

One account is made by the API, with a real track uploaded, analysed and drawn. Its rows are the
pattern: copied for all users, with ids, keys and names of their own, onto the shard of each; so they
are what the present version writes, whatever that is. Everything follows from SEED, the time apart:
the same users, tracks and session tokens in every run. The stack is reachable from this machine only
and dropped afterwards: its password and tokens are no secrets.
"""

import base64
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import time
import urllib.error
import urllib.request
import uuid

import psycopg2
import redis

from fleet import Refusal
from stack import objects

SEED = 20261
PASSWORD = "slow turtle eats salad"
EPOCH_MS = 1767225600000  # 2026-01-01: the first account
TRACKS, JOBS = (5, 35), 5  # tracks of a user, 20 on average
OBJECT_EVERY, OBJECT_BYTES = 5, 49152  # every fifth user's newest track can be listened to
MUSIC = "/usr/share/games/asc/music/machine_wars.mp3"  # Debian's asc-music
TRACK_S = 60
NAMES = ("Amber", "Basalt", "Cobalt", "Delta", "Ember", "Fjord", "Garnet", "Harbor", "Indigo", "Juniper",
         "Kestrel", "Lagoon", "Marble", "Nebula", "Onyx", "Prairie", "Quartz", "River", "Saffron", "Tundra",
         "Umber", "Velvet", "Willow", "Xenon", "Yarrow", "Zephyr", "Aurora", "Breeze", "Canyon", "Dune")


def place_of(user_id):
    """First 8 hex digits of the SHA-256 of the id's text (contract of lib/id.h)."""
    return hashlib.sha256(user_id.encode()).digest()[:4]


def user_id(rng, number):
    """A UUIDv7."""
    raw = bytearray((EPOCH_MS + number).to_bytes(6, "big") + rng.randbytes(10))
    raw[6], raw[8] = raw[6] & 0x0F | 0x70, raw[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(raw)))


def owned_id(rng, place, ms):
    """A UUIDv8 at its owner's place; those of one owner sort by time (lib/id.c)."""
    raw = bytearray(place + bytes(2) + rng.randbytes(10))
    raw[4], raw[5] = ms >> 40 & 255, ms >> 32 & 255
    raw[6], raw[7] = 0x80 | ms >> 28 & 0x0F, ms >> 20 & 255
    raw[8], raw[9] = 0x80 | ms >> 14 & 0x3F, ms >> 6 & 255
    raw[10] = (ms & 0x3F) << 2 | raw[10] & 3
    return str(uuid.UUID(bytes=bytes(raw)))


@contextlib.contextmanager
def transaction(dsn, autocommit=False):
    """A cursor on a connection of its own; committed where the block ends well."""
    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = autocommit
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()


class Session:
    """A token and what lib/session.c keeps of it."""

    def __init__(self, user, secret):
        raw = uuid.UUID(user).bytes + secret
        self.token = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        digest = hashlib.sha256(secret).digest()
        session = bytearray(place_of(user) + digest[4:16])
        session[6], session[8] = session[6] & 0x0F | 0x80, session[8] & 0x3F | 0x80
        self.hash, self.id = digest.hex(), str(uuid.UUID(bytes=bytes(session)))


class Artist:
    """A user of the seed."""

    def __init__(self, rng, number):
        self.number, self.id = number, user_id(rng, number)
        self.place = place_of(self.id)
        self.email, self.name = f"artist{number}@example.org", f"{NAMES[number % len(NAMES)]} {number}"
        self.address = f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        self.session = Session(self.id, rng.randbytes(32))
        count = TRACKS[0] + number * 7 % (TRACKS[1] - TRACKS[0] + 1)
        self.tracks = [owned_id(rng, self.place, EPOCH_MS + 60000 * t) for t in range(count)]
        self.jobs = [owned_id(rng, self.place, EPOCH_MS + 60000 * t) for t in range(JOBS)]
        self.has_object = number % OBJECT_EVERY == 0

    def shard(self, count):
        return int.from_bytes(self.place, "big") % count

    def key(self, track):
        return f"audio/{self.id}/{track}.mp3"

    def for_k6(self):
        """What day.js takes apart: a list of one string, which costs k6 the least. It freezes what it
        shares each time that it is read: each item of a list, and of a bare string each letter. Tracks as
        lists are, newest first."""
        return [" ".join([self.session.token, self.id, self.address, self.jobs[-1],
                          str(int(self.has_object)), *self.tracks[:-5:-1]])]


def artists(count):
    rng = random.Random(SEED)
    return [Artist(rng, n) for n in range(count)]


def make_track(path):
    """A minute of real music as MP3."""
    if not os.path.exists(path):
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-t", str(TRACK_S), "-i", MUSIC, "-ar", "44100",
                        "-ac", "2", "-c:a", "libmp3lame", "-b:a", "128k", path + ".new.mp3"], check=True)
        os.replace(path + ".new.mp3", path)


class Pattern:
    """The account that the others are copies of."""

    def __init__(self, fleet, track):
        self.fleet, self.token = fleet, None
        account = {"email": "pattern@example.org", "password": PASSWORD}
        self.id = self._ask("POST", "/auth/register", {**account, "name": "Pattern"})["id"]
        self.token = self._ask("POST", "/auth/login", account)["token"]
        with open(track, "rb") as f:
            data = f.read()
        grant = self._ask("POST", "/audio/upload-url", {"fileName": "pattern.mp3",
                                                        "contentType": "audio/mpeg", "size": len(data)})
        put = urllib.request.Request(grant["url"], data, grant["headers"], method="PUT")
        with urllib.request.urlopen(put, timeout=60):
            pass
        self.file = self._ask("POST", "/audio/complete-upload", {"key": grant["key"]})["id"]
        self.job = self._ask("POST", "/audio/waveform", {"fileId": self.file, "zoom": 512})["jobId"]
        self._wait(lambda: self._ask("GET", f"/jobs/{self.job}")["status"] == "completed", "waveform")
        self._wait(lambda: self._ask("GET", f"/audio/{self.file}")["analysis"], "analysis")

    def _wait(self, check, what):
        deadline = time.monotonic() + 60
        while not check():
            if time.monotonic() > deadline:
                raise Refusal(f"The {what} of the first track does not come; see the stack's logs.")
            time.sleep(0.2)

    def _ask(self, method, path, body=None):
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = json.dumps(body).encode() if body is not None else None
        try:
            with urllib.request.urlopen(urllib.request.Request(
                    self.fleet.api + path, data, headers, method=method), timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as refusal:
            raise Refusal(f"{method} {path}: {refusal.code} {refusal.read()[:500]!r}") from None

    def rows(self):
        """{table: row as JSON} of user, file and job."""
        shards = self.fleet.shards()
        shard = int.from_bytes(place_of(self.id), "big") % len(shards)
        with transaction(shards[shard]) as cursor:
            found = {}
            for table, key in (("users", self.id), ("audio_files", self.file), ("jobs", self.job)):
                cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t WHERE id = %s", (key,))
                found[table] = cursor.fetchone()[0]
        return found


# What differs from the pattern, a table: its columns in the order of the copied lines.
DIFFERS = {"users": ("id", "email", "name"), "audio_files": ("id", "user_id", "key", "file_name"),
           "jobs": ("id", "user_id")}


def _lines(artist):
    """The lines of each table for one user."""
    yield "users", (artist.id, artist.email, artist.name)
    for number, track in enumerate(artist.tracks):
        yield "audio_files", (track, artist.id, artist.key(track), f"take {number}.mp3")
    for job in artist.jobs:
        yield "jobs", (job, artist.id)


def _copy(cursor, table, columns, lines):
    """A temporary table seed_TABLE with these lines."""
    cursor.execute(f"CREATE TEMP TABLE seed_{table} ({', '.join(c + ' text' for c in columns)})")
    cursor.copy_expert(f"COPY seed_{table} FROM STDIN", io.StringIO(lines))


def _fill_shard(dsn, patterns, lines, emails):
    with transaction(dsn) as cursor:
        for table, columns in DIFFERS.items():
            _copy(cursor, table, columns, "".join("\t".join(row) + "\n" for row in lines[table]))
            cursor.execute(f"INSERT INTO {table} SELECT r.* FROM seed_{table} s, LATERAL "
                           f"jsonb_populate_record(NULL::{table}, %s::jsonb || to_jsonb(s)) r",
                           (patterns[table],))
        _copy(cursor, "emails", ("email", "user_id"), "".join("\t".join(row) + "\n" for row in emails))
        cursor.execute("INSERT INTO emails (email, user_id, active) "
                       "SELECT email, user_id::uuid, true FROM seed_emails")
    # Else the first minutes of the run would be those of a database that was filled a moment ago.
    with transaction(dsn, autocommit=True) as cursor:
        for table in (*DIFFERS, "emails"):
            cursor.execute(f"VACUUM (ANALYZE) {table}")


def fill_databases(fleet, people, patterns):
    shards = fleet.shards()
    lines = {s: {table: [] for table in DIFFERS} for s in shards}
    emails = {s: [] for s in shards}
    for artist in people:
        for table, row in _lines(artist):
            lines[artist.shard(len(shards))][table].append(row)
        place = hashlib.sha256(artist.email.encode()).digest()[:4]
        emails[int.from_bytes(place, "big") % len(shards)].append((artist.email, artist.id))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda s: _fill_shard(shards[s], patterns, lines[s], emails[s]), shards))


def fill_sessions(fleet, people):
    """As session_create() of lib/session.c leaves them."""
    url = fleet.values["REDIS_URL"].split(",")[0]
    kind = redis.RedisCluster if fleet.topology.is_redis_cluster else redis.Redis
    client = kind.from_url(url, socket_timeout=30)
    partitions, ttl_ms = fleet.value("SESSION_PARTITIONS"), fleet.value("SESSION_TTL") * 1000
    now_ms = int(time.time() * 1000)
    for start in range(0, len(people), 500):
        pipe = client.pipeline(transaction=False) if kind is redis.Redis else client.pipeline()
        for artist in people[start:start + 500]:
            session = artist.session
            key, index = f"session:{{{artist.id}}}:{session.id}", f"sessions:{{{artist.id}}}"
            live = int.from_bytes(artist.place, "big") % partitions
            pipe.hset(key, mapping={"h": session.hash, "r": "artist", "c": now_ms, "l": now_ms,
                                    "a": artist.address, "u": "maxbooster-loadtest"})
            pipe.pexpire(key, ttl_ms)
            pipe.zadd(index, {session.id: now_ms + ttl_ms})
            pipe.pexpire(index, ttl_ms)
            pipe.zadd(f"sessions:live:{{{live}}}", {session.id: now_ms + ttl_ms})
        pipe.execute()
    client.close()


def fill_objects(fleet, people, track):
    """The newest track of every fifth user can be read."""
    with open(track, "rb") as f:
        body = f.read(OBJECT_BYTES)
    values = fleet.values

    def put(artist):
        path = f"/{values['S3_BUCKET']}/{artist.key(artist.tracks[-1])}"
        status, text = objects.request(fleet.topology.s3_port, values, "PUT", path, body=body)
        if status != 200:
            raise Refusal(f"S3 does not take {path}: {status} {text[:200]!r}")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(put, [a for a in people if a.has_object]))


def fill(fleet, count, folder):
    """Seed the fleet; writes users.json and track.mp3 for k6. Returns what there is now."""
    track = os.path.join(folder, "track.mp3")
    make_track(track)
    people = artists(count)
    pattern = Pattern(fleet, track)
    fill_databases(fleet, people, pattern.rows())
    fill_sessions(fleet, people)
    fill_objects(fleet, people, track)
    with open(os.path.join(folder, "users.json"), "w", encoding="ascii") as f:
        json.dump([a.for_k6() for a in people], f, separators=(",", ":"))
    fleet.checkpoint()
    size = 0
    for dsn in fleet.shards().values():
        with transaction(dsn) as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            size += cursor.fetchone()[0]
    return {"users": count, "tracks": sum(len(a.tracks) for a in people), "sessions": count,
            "jobs": JOBS * count, "objects": sum(a.has_object for a in people), "databaseBytes": size,
            "seed": SEED}
