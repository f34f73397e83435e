"""Odd and hostile files: each gives a result or a clear error, and a child that breaks costs one job."""
import json
import os
import pathlib
import random
import signal
import struct
import subprocess

import pytest

from harness import audio, tracks
from harness.medialab import FORMATS
from harness.waits import wait_until

OPERATIONS = [("probe", None), ("waveform", {"zoom": [64, 1000]}), ("analyse", {}),
              ("mix", {"format": "flac", "tracks": [{"pan": 1, "fadeOutMs": 100}]}),
              *(("convert", {"format": f}) for f in FORMATS), ("convert", {"format": "opus", "targetLufs": -14})]
CODES = {"empty", "not_audio", "no_audio", "unsupported_codec", "corrupt", "too_long", "sample_rate", "channels",
         "streams", "too_complex", "result_too_large"}
MUTANTS = 12
NUMBERS = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]


def mutated(dice, data):
    """The bytes with a few faults, many of them where the headers are."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        at = dice.randrange(min(len(out), dice.choice((64, 512, 4096, 1 << 30))))
        fault = dice.randrange(6)
        if fault == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif fault == 1:
            out[at:at + 4] = dice.choice(NUMBERS)
        elif fault == 2:
            del out[at:at + dice.choice((1, 4, 100))]
        elif fault == 3:
            out[at:at] = out[dice.randrange(len(out)):][:300]
        elif fault == 4:
            out[at:at] = dice.randbytes(dice.choice((1, 4, 64)))
        elif dice.random() < 0.3:
            del out[max(64, dice.randrange(len(out))):]
    return bytes(out)


def judged(media, operation, params, data):
    """Run it: the code of the refusal, or None for a result. Nothing else may come of it."""
    path = media.file("input", data)
    files = [path, path] if operation == "mix" else [path]
    words = ["probe", path] if operation == "probe" else ["run", operation, json.dumps(params),
                                                          media.folder / "out", *files]
    told = media.call("--timeout-ms", "60000", "--discard", *words, ok=None)
    if "error" not in told:
        return None
    assert told["error"] == "media_invalid" and told["code"] in CODES and told["detail"], told
    assert told["field"] in ("file", "tracks[0].fileId", "tracks[1].fileId")
    return told["code"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutated_file_gives_a_result_or_a_clear_error(media, kind):
    _, data = media.convert({"format": kind}, tracks.with_cover())
    dice = random.Random(f"{kind} 1")
    for _ in range(MUTANTS):
        judged(media, *dice.choice(OPERATIONS), mutated(dice, data))


def id3(*frames, claim=None):
    """An ID3v2.3 tag in front of music."""
    body = b"".join(name + struct.pack(">IH", len(text), 0) + text for name, text in frames)
    size = len(body) if claim is None else claim
    return b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + body + tracks.short_mp3()


@pytest.mark.parametrize("data", [
    id3((b"TIT2", b"\0" + b"x" * 3000000)),
    id3(*((b"TXXX", b"\0key%d\0value" % i) for i in range(20000))),
    id3((b"TIT2", b"\1\xff\xfe\0\xd8\0\xd8"), (b"TPE1", b"\3\xff\xfe\xfd\xc0\x80")),
    id3((b"APIC", b"\0image/png\0\3\0" + b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff" + b"\0" * 99)),
    id3((b"APIC", b"\0image/jpeg\0\3\0" + b"\xff\xd8\xff" + b"\xff" * 100000)),
    id3((b"CHAP", b"a" * 50), (b"PRIV", b"b" * 100), (b"GEOB", b"\0" * 400)),
    id3((b"TIT2", b"\0t\n\r\x1b[31m<script>")),
], ids=["huge", "many", "no-text", "huge-picture", "bad-picture", "odd-frames", "control"])
@pytest.mark.parametrize("target", FORMATS)
def test_hostile_tags_do_no_harm(media, target, data):
    result, _ = media.convert({"format": target}, data)
    assert abs(result["durationMs"] - 5000) < 60


@pytest.mark.parametrize("claim", [2 ** 28 - 1, 20000])
def test_a_tag_that_claims_more_than_there_is_gives_a_result_or_a_clear_error(media, claim):
    judged(media, "convert", {"format": "wav"}, id3((b"TIT2", b"\0t"), claim=claim))


def flac_of(claim_samples, rate=44100, channels=2):
    """A FLAC whose header claims anything."""
    data = bytearray(tracks.flac(5))
    word = rate << 44 | (channels - 1) << 41 | 15 << 36 | claim_samples
    data[18:26] = struct.pack(">Q", word)
    return bytes(data)


def mp4_of(box, at, number):
    """An M4A with one number of a box replaced."""
    path = tracks.FOLDER / "bomb.m4a"
    if not path.exists():
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", "-", "-c:a", "aac", path], input=tracks.wav(5),
                       check=True)
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + at
    data[start:start + 4] = struct.pack(">I", number)
    return bytes(data)


@pytest.mark.parametrize("data", [
    lambda: flac_of(2 ** 36 - 1), lambda: flac_of(0), lambda: flac_of(10 ** 6, rate=655350, channels=8),
    lambda: mp4_of(b"stsz", 8, 2 ** 31 - 1), lambda: mp4_of(b"stts", 4, 2 ** 32 - 1),
    lambda: mp4_of(b"stsc", 4, 2 ** 31 - 1), lambda: mp4_of(b"stco", 4, 2 ** 31 - 1),
    lambda: mp4_of(b"mdhd", 12, 2 ** 32 - 1), lambda: mp4_of(b"elst", 4, 2 ** 31 - 1),
    lambda: mp4_of(b"mvhd", 12, 0), lambda: mp4_of(b"mdhd", 12, 0),
], ids=["flac-long", "flac-unknown", "flac-fast", "sizes", "times", "chunks", "places", "rate", "edits", "no-rate",
        "no-clock"])
@pytest.mark.parametrize("operation,params", [("probe", None), ("waveform", {}), ("convert", {"format": "m4a"})])
def test_absurd_counts_give_a_result_or_a_clear_error(media, data, operation, params):
    judged(media, operation, params, data())


def test_a_bomb_is_stopped_by_its_length_and_not_by_its_size(media):
    """An hour of FLAC in a few hundred kilobytes, where half an hour is allowed; its header claims nothing."""
    data = bytearray(tracks.hour_of_silence())
    data[21:26] = bytes([data[21] & 0xf0, 0, 0, 0, 0])
    told = media.call("--discard", "run", "convert", '{"format":"wav"}', media.folder / "out",
                      media.file("input", bytes(data)), ok=False, env={"MEDIA_DURATION_MAX_S": "1800"})
    assert (told["error"], told["code"]) == ("media_invalid", "too_long")


def endless_ogg():
    """A page of Vorbis that comes again and again, and never gives a sample."""
    data = tracks.ogg_named_mp3()
    page = data.index(b"OggS", data.index(b"OggS", data.index(b"OggS", 4) + 4) + 4)
    return data[:page] + data[:page] * 2000


def test_a_stream_without_end_ends(media):
    judged(media, "convert", {"format": "wav"}, endless_ogg())
    judged(media, "waveform", {}, b"\xff\xfb\x90\x40" * 500000)


# ---- through the platform ----

def test_a_mutated_upload_is_taken_or_refused_with_a_reason(user):
    dice = random.Random(5)
    for name, data in [("a.mp3", tracks.short_mp3()), ("a.wav", tracks.wav(5)), ("a.flac", tracks.flac(5))] * 4:
        grant = audio.store(user.client, name, mutated(dice, data))
        reply = audio.complete(user.client, grant["key"], expect=(201, 415, 422))
        if reply.status == 422:
            assert reply.json["errors"][0]["code"] in CODES
        if reply.status != 201:
            continue
        taken = user.client.post("/api/audio/convert", {"fileId": grant["fileId"], "format": "opus"}, expect=202).json
        job = audio.wait_job(user.client, taken["jobId"], wanted=("completed", "failed"))
        assert job["status"] == "completed" or job["error"]["code"] == "media_invalid", job


def workers(stack):
    """Pids of the stack's job workers."""
    return {stack.main_process(name).pid for name in stack.programs_of("worker")}


def media_children(stack):
    """Pids of the media children that work for them."""
    found = []
    for pid in workers(stack):
        for listed in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in listed.read_text().split()]
    return found


@pytest.fixture
def begin(private):
    """Starts a long job: its user, its id, and its child, which is the only one."""
    user = private.user()

    def begun(operation="convert"):
        file = audio.upload(user.client, "music.mp3", tracks.music())
        audio.end_jobs(user.client)  # the analysis
        wait_until(lambda: not media_children(private), 60, "the workers to be idle", every=0.05)
        parts = [{"fileId": file["id"], "offsetMs": 290000 * i} for i in range(8)]
        body = {"tracks": parts} if operation == "mix" else {"fileId": file["id"]}
        job = user.client.post(f"/api/audio/{operation}", {**body, "format": "opus"}, expect=202).json["jobId"]
        (child,) = wait_until(lambda: media_children(private), 60, "the child", every=0.01)
        return user, job, child
    yield begun
    audio.end_jobs(user.client)
    user.close()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("private")
def test_a_child_that_crashes_costs_an_attempt_and_no_worker(private, begin):
    before = workers(private)
    user, job, child = begin()
    os.kill(child, signal.SIGSEGV)
    told = wait_until(lambda: (lambda j: j if j["attempts"] == 2 else None)(
        user.client.get(f"/api/jobs/{job}").json), 30, "a second attempt", every=0.05)
    assert told["status"] in ("processing", "completed")
    assert workers(private) == before


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("private")
def test_a_child_that_hangs_costs_a_job_and_no_worker(private, begin):
    """The mix has three seconds here, each time."""
    before = workers(private)
    user, job, child = begin("mix")
    os.kill(child, signal.SIGSTOP)
    told = audio.wait_job(user.client, job, wanted=("failed",))
    assert (told["error"]["code"], told["attempts"]) == ("timed_out", 4)
    assert workers(private) == before
    small = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    taken = user.client.post("/api/audio/convert", {"fileId": small["id"], "format": "wav"}, expect=202).json
    audio.wait_job(user.client, taken["jobId"])


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("private")
def test_cancelling_over_http_ends_the_child_and_leaves_nothing(private, begin):
    user, job, child = begin()
    user.client.delete(f"/api/jobs/{job}", expect=204)
    wait_until(lambda: child not in media_children(private), 10, "the child's end", every=0.005)
    assert user.client.get(f"/api/jobs/{job}", expect=200).json["status"] == "cancelled"
    origins = [f["origin"] for f in user.client.get("/api/audio").json["items"]]
    assert origins == ["upload"]
