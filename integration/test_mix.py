"""Mixing: samples against formulas, the child beside other tools, and the job over HTTP."""
import array
import json
import math
import struct
import subprocess

import pytest

from harness import audio, tracks
from harness.medialab import BIN

RATE = 44100


def wav(samples, rate=RATE, channels=1):
    """A 16-bit WAV of interleaved samples from -1 to 1."""
    data = array.array("h", (round(s * 32767) for s in samples)).tobytes()
    return (b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
        + b"data" + struct.pack("<I", len(data)) + data)


def sine(frequency, seconds, amplitude=0.3, rate=RATE):
    """Samples of a sine."""
    return [amplitude * math.sin(2 * math.pi * frequency * k / rate)
            for k in range(round(seconds * rate))]


def stereo(left, right):
    """Interleaved."""
    return [s for pair in zip(left, right) for s in pair]


def factor(decibels):
    """As a factor."""
    return 10 ** (decibels / 20)


class Mixer:
    """Runs the driver in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def call(self, sources, ok=True, options=(), **params):
        """The driver's JSON."""
        paths = []
        for i, data in enumerate(sources):
            paths.append(self.folder / f"in{i}")
            paths[-1].write_bytes(data)
        params.setdefault("format", "wav")
        params.setdefault("tracks", [{}] * len(sources))
        done = subprocess.run([BIN / "media-driver", *options, "run", "mix", json.dumps(params),
                               self.folder / "out", *paths], capture_output=True, timeout=120,
                              env={"PATH": "/usr/bin:/bin"}, check=False)
        assert done.returncode == (0 if ok else 1), (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def data(self, sources, **params):
        """The result and its bytes."""
        told = self.call(sources, **params)
        made = (self.folder / "out.0").read_bytes()
        assert (told["size"], told["sha256"]) == (len(made), audio.sha256(made))
        return told, made

    def samples(self, sources, **params):
        """The channels of a mix to WAV, from -1 to 1."""
        told, made = self.data(sources, **params)
        at = made.index(b"data") + 8
        raw = array.array("h", made[at:at + (len(made) - at) // 2 * 2])
        return [[s / 32767 for s in raw[c::told["channels"]]] for c in range(told["channels"])]


@pytest.fixture
def mixer(tmp_path, media_programs):
    """The driver."""
    return Mixer(tmp_path)


def expected(n, parts):
    """The sum of (samples, offset, factors or factor) as n samples."""
    out = [0.0] * n
    for samples, offset, gain in parts:
        for k, s in enumerate(samples):
            out[offset + k] += s * (gain[k] if isinstance(gain, list) else gain)
    return out


def assert_close(got, want, steps=2.1):
    """Within so many steps of 16 bits: rounding and dither."""
    assert len(got) == len(want)
    assert max(abs(a - b) for a, b in zip(got, want)) * 32767 <= steps


def meter(path):
    """What ffmpeg's loudness meter says of a file."""
    return subprocess.run(["ffmpeg", "-nostats", "-i", path, "-af", "ebur128=peak=true", "-f",
                           "null", "-"], capture_output=True, text=True, check=True,
                          timeout=60).stderr


# ---- samples ----

def test_two_tracks_are_added_bit_by_bit(mixer):
    one, two = sine(440, 0.5), sine(660, 0.7)
    left, right = mixer.samples([wav(one), wav(two)])
    assert left == right
    whole = [round(s * 32767) for s in two]
    for k, s in enumerate(one):
        whole[k] += round(s * 32767)
    assert [round(s * 32767) for s in left] == whole


@pytest.mark.parametrize("offset_ms,rate", [
    (0, 44100), (1, 44100), (333, 44100), (777, 48000), (10, 11025), (30, 11025)])
def test_a_track_begins_at_its_very_sample(mixer, offset_ms, rate):
    place = int(offset_ms * rate / 1000 + 0.5)
    left, _ = mixer.samples([wav([0.0] * 10, rate), wav([0.5] + [0.0] * 99, rate)],
                            tracks=[{}, {"offsetMs": offset_ms}])
    assert [k for k, s in enumerate(left) if s != 0] == [place]
    assert len(left) == place + 100


def test_gain_pan_and_offset_as_formulas(mixer):
    one, two = sine(440, 0.5), sine(660, 0.5)
    left, right = mixer.samples([wav(one), wav(two)],
                                tracks=[{"gainDb": -6.5, "pan": -0.4},
                                        {"gainDb": 3, "pan": 0.7, "offsetMs": 100}])
    a, b = -0.4, 0.7
    for got, law in ((left, math.cos), (right, math.sin)):
        want = expected(len(left), [
            (one, 0, factor(-6.5) * math.sqrt(2) * law((a + 1) * math.pi / 4)),
            (two, 4410, factor(3) * math.sqrt(2) * law((b + 1) * math.pi / 4))])
        assert_close(got, want, steps=3.1)  # what the sources were rounded by is amplified


@pytest.mark.parametrize("pan,left_gain,right_gain", [
    (-1, math.sqrt(2), 0), (1, 0, math.sqrt(2)), (0, 1, 1)])
def test_a_stereo_track_is_balanced(mixer, pan, left_gain, right_gain):
    left_in, right_in = sine(300, 0.2), sine(500, 0.2)
    left, right = mixer.samples([wav(stereo(left_in, right_in), channels=2), wav([0.0] * 10)],
                                tracks=[{"pan": pan}, {}])
    assert_close(left, [s * left_gain for s in left_in])
    assert_close(right, [s * right_gain for s in right_in])


def test_fades_are_straight_lines(mixer):
    n, rise, fall = 22050, 4410, 8820
    one = [0.5] * n
    left, _ = mixer.samples([wav(one), wav([0.0] * 10)],
                            tracks=[{"fadeInMs": 100, "fadeOutMs": 200, "offsetMs": 50}, {}])
    shape = [min(1, k / rise) * min(1, (n - 1 - k) / fall) for k in range(n)]
    assert_close(left, expected(n + 2205, [(one, 2205, shape)]))


def test_the_end_of_a_lossy_track_fades_to_silence(mixer):
    mp3 = tracks.short_mp3()
    plain, _ = mixer.samples([mp3, wav([0.0] * 10)])
    faded, _ = mixer.samples([mp3, wav([0.0] * 10)], tracks=[{"fadeOutMs": 500}, {}])
    assert len(plain) == len(faded)
    rate = mixer.call([mp3, wav([0.0] * 10)])["sampleRate"]
    n, fall = len(plain), round(rate / 2)
    assert_close(faded, [s * min(1, (n - 1 - k) / fall) for k, s in enumerate(plain)], steps=3.1)


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
def test_another_rate_is_resampled_in_place(mixer, rate):
    other = sine(1000, 0.5, rate=rate)
    left, _ = mixer.samples([wav(other, rate), wav([0.0] * 100)], sampleRate=44100,
                            tracks=[{"offsetMs": 100}, {}])
    want = sine(1000, 0.5)
    assert abs(len(left) - (4410 + len(want))) <= 1
    middle = slice(2000, len(want) - 2000)
    assert max(abs(a - b) for a, b in zip(left[4410:][middle], want[middle])) < 0.001
    assert max(abs(s) for s in left[:4300]) < 0.001


def test_the_highest_rate_of_the_tracks_is_the_results(mixer):
    told = mixer.call([wav(sine(300, 0.1, rate=rate), rate) for rate in (44100, 48000, 8000)])
    assert (told["sampleRate"], told["channels"], told["bitDepth"]) == (48000, 2, 16)


def test_channels_go_down_and_up(mixer):
    left_in, right_in = sine(300, 0.1), sine(500, 0.1)
    both = wav(stereo(left_in, right_in), channels=2)
    (mono,) = mixer.samples([both, wav([0.0] * 10)], channels=1)
    assert_close(mono, [(a + b) / 2 for a, b in zip(left_in, right_in)])
    six = mixer.samples([both, wav([0.0] * 10)], channels=6)
    assert_close(six[0], left_in)
    assert_close(six[1], right_in)
    assert all(max(map(abs, channel)) * 32767 <= 2.1 for channel in six[2:])


def test_six_channels_are_mixed_down_as_itu_says(mixer):
    parts = [sine(200 + 100 * c, 0.1, amplitude=0.2) for c in range(6)]
    six = wav([s for frame in zip(*parts) for s in frame], channels=6)
    left, right = mixer.samples([six, wav([0.0] * 10)])
    norm, root = 1 / (1 + 2 * math.sqrt(0.5)), math.sqrt(0.5)
    for got, front, side in ((left, parts[0], parts[4]), (right, parts[1], parts[5])):
        assert_close(got, [(f + root * c + root * s) * norm
                           for f, c, s in zip(front, parts[2], side)])


def test_sixty_four_tracks(mixer):
    whole = [sine(100 + 20 * i, 0.05, amplitude=0.01) for i in range(64)]
    left, right = mixer.samples([wav(s) for s in whole],
                                tracks=[{"offsetMs": 10 * i} for i in range(64)])
    n = 441 * 63 + len(whole[0])
    want = [0] * n
    for i, part in enumerate(whole):
        for k, s in enumerate(part):
            want[441 * i + k] += round(s * 32767)
    assert [round(s * 32767) for s in left] == want and left == right


def test_too_loud_a_sum_is_limited_below_its_true_peak(mixer):
    loud = wav(sine(997, 2, amplitude=0.95))
    _, made = mixer.data([loud] * 4, format="flac")
    told = meter(mixer.folder / "out.0")
    peak = float(told[told.index("Peak:"):].split()[1])
    assert -1.3 <= peak <= -0.9, peak
    samples = audio.decode(made, RATE, 2)
    flat = sum(1 for a, b in zip(samples[2000::2], samples[2002::2]) if a == b and abs(a) > 20000)
    assert flat < len(samples) / 2 * 0.02  # a hard clip holds its level


def test_the_first_and_last_samples_are_there_when_limited(mixer):
    samples = [0.9] + [0.0] * 9998 + [-0.9]
    left, _ = mixer.samples([wav(samples)] * 3)
    assert left[0] > 0.88 and left[-1] < -0.88 and len(left) == 10000
    assert max(map(abs, left[1000:9000])) == 0


@pytest.mark.parametrize("target", [-23, -14])
def test_a_loudness_target_is_met(mixer, target):
    told, _ = mixer.data([wav(sine(997, 6)), wav(sine(300, 6, amplitude=0.1))], format="flac",
                         targetLufs=target)
    said = meter(mixer.folder / "out.0")
    assert abs(float(said[said.rindex("I:"):].split()[1]) - target) <= 0.3
    assert told["durationMs"] == 6000


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "aac", "m4a", "ogg", "opus"])
def test_every_format_and_as_ffmpeg_sums(mixer, form):
    parts = [tracks.wav(3), tracks.short_mp3(), tracks.ogg_named_mp3()]
    told, made = mixer.data(parts, format=form, tracks=[{"gainDb": -12}] * 3)
    stream, container = audio.ffprobe(made)
    assert stream["channels"] == 2 and told["format"] == form
    if "duration" in container and form != "aac":
        assert abs(float(container["duration"]) * 1000 - told["durationMs"]) < 60
    again, _ = mixer.data(parts, format=form, tracks=[{"gainDb": -12}] * 3)
    assert again["sha256"] == told["sha256"]


def test_a_sum_is_what_sox_makes_of_it(mixer):
    parts = [tracks.wav(3), tracks.wav(2)]
    told, made = mixer.data(parts, tracks=[{"gainDb": -6}, {"gainDb": -9}])
    names = []
    for i, part in enumerate(parts):
        names.append(mixer.folder / f"part{i}.wav")
        names[-1].write_bytes(part)
    subprocess.run(["sox", "-D", "-m", "-v", str(factor(-6)), names[0], "-v", str(factor(-9)),
                    names[1], mixer.folder / "sox.wav"], check=True, timeout=60,
                   capture_output=True)
    ours = audio.decode(made, told["sampleRate"], 2)
    theirs = audio.decode((mixer.folder / "sox.wav").read_bytes(), told["sampleRate"], 2)
    assert audio.max_difference(ours, theirs) <= 3


# ---- faults ----

@pytest.mark.parametrize("bad,code", [
    (b"", "empty"), (b"not audio at all" * 100, "not_audio"),
    (wav([0.0] * 100, rate=500), "sample_rate"), (wav([])[:44], "corrupt")])
def test_a_bad_track_is_named(mixer, bad, code):
    told = mixer.call([wav(sine(300, 0.1)), wav(sine(300, 0.1)), bad], ok=False)
    assert told["error"] == "media_invalid"
    assert (told["field"], told["code"]) == ("tracks[2].fileId", code)


@pytest.mark.parametrize("track,field", [
    ({"gainDb": 25}, "gainDb"), ({"gainDb": "nan"}, "gainDb"), ({"pan": 1.01}, "pan"),
    ({"offsetMs": -1}, "offsetMs"), ({"offsetMs": 1e300}, "offsetMs"),
    ({"fadeInMs": 60001}, "fadeInMs"), ({"fadeOutMs": 0.5}, "fadeOutMs")])
def test_hostile_values_are_named(mixer, track, field):
    told = mixer.call([wav(sine(300, 0.1))] * 2, ok=False, tracks=[{}, track])
    assert (told["error"], told["field"]) == ("validation_failed", f"tracks[1].{field}")


def test_infinities_and_what_is_no_number_do_no_harm(mixer):
    bad = [float("inf"), float("nan"), -float("inf"), 3e38]
    floats = array.array("f", bad * 1000).tobytes()
    head = (b"RIFF" + struct.pack("<I", 36 + len(floats)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 3, 1, RATE, RATE * 4, 4, 32) + b"data" + struct.pack("<I", len(floats)))
    for form in ("wav", "mp3", "m4a"):
        mixer.call([head + floats, wav(sine(300, 0.5))], format=form)


def test_memory_is_bounded_for_64_long_tracks(mixer):
    """The child's peak memory, its share of the parent's blocks included."""
    long = mixer.folder / "long"
    long.write_bytes(tracks.music())
    parts = [{"gainDb": -30, "offsetMs": 997 * i} for i in range(64)]
    done = subprocess.run(["/usr/bin/time", "-f", "%M", BIN / "media-driver", "--discard",
                           "--timeout-ms", "20000", "run", "mix",
                           json.dumps({"format": "mp3", "tracks": parts}), mixer.folder / "out",
                           *[long] * 64], capture_output=True, timeout=60,
                          env={"PATH": "/usr/bin"}, check=False)
    assert int(done.stderr.split()[-1]) < 64 * 1024


# ---- over HTTP ----

@pytest.fixture(scope="module")
def artist(stack):
    """An account with two files."""
    account = stack.user()
    account.files = [audio.upload(account.client, name, wav(sine(440, seconds, rate=rate), rate))
                     for name, seconds, rate in (("drums.wav", 1, RATE), ("voice.wav", 0.5, 48000))]
    return account


def body(artist, *changes, **more):
    """A request for a mix of the two files, with changes of the tracks."""
    parts = [{"fileId": file["id"]} | (changes[i] if i < len(changes) else {})
             for i, file in enumerate(artist.files)]
    return {"tracks": parts, "format": "flac"} | more


def test_a_mix_is_a_new_file(artist):
    reply = artist.client.post("/api/audio/mix", body(artist, {}, {"offsetMs": 750, "pan": 0.25}),
                               expect=202)
    assert reply.headers["Location"] == reply.json["statusUrl"]
    job = audio.wait_job(artist.client, reply.json["jobId"])
    result = job["result"]
    data = audio.download(result["url"])
    assert (job["type"], result["format"], result["durationMs"]) == ("audio-mix", "flac", 1250)
    assert (len(data), audio.sha256(data)) == (result["size"], result["sha256"])
    stream, _ = audio.ffprobe(data)
    assert (stream["codec_name"], stream["sample_rate"], stream["channels"]) == ("flac", "48000", 2)
    made = artist.client.get(f"/api/audio/{result['fileId']}", expect=200).json
    assert (made["status"], made["origin"], made["key"]) == ("verified", "mix", result["key"])
    assert made["fileName"] == "drums (mix).flac"


def test_one_file_may_be_many_tracks(artist):
    parts = [{"fileId": artist.files[0]["id"], "offsetMs": 100 * i, "gainDb": -20}
             for i in range(64)]
    reply = artist.client.post("/api/audio/mix", {"tracks": parts, "format": "mp3",
                                                  "targetLufs": -16}, expect=202)
    job = audio.wait_job(artist.client, reply.json["jobId"])
    assert abs(job["result"]["durationMs"] - 7300) <= 60


def test_the_same_key_gives_the_same_job(artist):
    key = {"Idempotency-Key": "mix-it-once-0001"}
    replies = [artist.client.post("/api/audio/mix", body(artist), headers=key, expect=202)
               for _ in range(2)]
    assert replies[0].json["jobId"] == replies[1].json["jobId"]
    audio.wait_job(artist.client, replies[0].json["jobId"])


@pytest.mark.parametrize("changes,violation", [
    ({"gainDb": 24.5}, ("tracks[1].gainDb", "range")),
    ({"gainDb": -61}, ("tracks[1].gainDb", "range")),
    ({"gainDb": "3"}, ("tracks[1].gainDb", "type")), ({"pan": -1.5}, ("tracks[1].pan", "range")),
    ({"offsetMs": -1}, ("tracks[1].offsetMs", "range")),
    ({"offsetMs": 2 ** 62}, ("tracks[1].offsetMs", "range")),
    ({"offsetMs": 1.5}, ("tracks[1].offsetMs", "type")),
    ({"fadeInMs": 60001}, ("tracks[1].fadeInMs", "range")),
    ({"fadeOutMs": -5}, ("tracks[1].fadeOutMs", "range")),
    ({"volume": 1}, ("tracks[1].volume", "unknown")),
    ({"fileId": None}, ("tracks[1].fileId", "required"))])
def test_a_fault_of_a_track_is_told_with_its_number(artist, changes, violation):
    reply = artist.client.post("/api/audio/mix", body(artist, {}, changes))
    assert reply.status == 422
    assert reply.violations == {violation}


@pytest.mark.parametrize("tracks_in,violation", [
    (None, ("tracks", "required")), ({}, ("tracks", "type")), ([], ("tracks", "length")),
    (1, ("tracks", "length")), (65, ("tracks", "length")), ([1, 2], ("tracks[0]", "type"))])
def test_tracks_are_2_to_64_objects(artist, tracks_in, violation):
    if isinstance(tracks_in, int):
        tracks_in = [{"fileId": artist.files[0]["id"]}] * tracks_in
    reply = artist.client.post("/api/audio/mix", {"tracks": tracks_in, "format": "wav"})
    assert reply.status == 422
    assert violation in reply.violations


def test_a_format_is_judged_as_for_a_conversion(artist):
    reply = artist.client.post("/api/audio/mix", body(artist, format="wav", quality=11))
    assert reply.violations >= {("quality", "range")}
    reply = artist.client.post("/api/audio/mix", body(artist, {"pan": 2}, format="mp3", channels=6))
    assert reply.violations == {("channels", "range"), ("tracks[0].pan", "range")}


def test_the_last_allowed_offset_leaves_no_room_for_a_track(artist):
    reply = artist.client.post("/api/audio/mix", body(artist, {}, {"offsetMs": 43200000}))
    assert reply.violations == {("tracks[1].offsetMs", "range")}


def test_another_users_file_is_not_there(artist, user):
    theirs = audio.upload(user.client, "mine.mp3", tracks.short_mp3())
    reply = artist.client.post("/api/audio/mix", body(artist, {}, {"fileId": theirs["id"]}))
    assert (reply.status, reply.code) == (404, "not_found")
    assert "tracks[1].fileId" in reply.json["detail"]


def test_a_file_that_is_not_verified_is_a_conflict(artist):
    grant = audio.begin_upload(artist.client, "later.mp3", b"x").json
    reply = artist.client.post("/api/audio/mix", body(artist, {"fileId": grant["fileId"]}))
    assert (reply.status, reply.code) == (409, "conflict")
    assert "tracks[0].fileId" in reply.json["detail"]
