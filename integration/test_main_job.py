"""The main job over real audio, from registering to the converted file; judged by other tools."""
import json

import pytest

from harness import audio, tracks


def run(client, kind, file, **body):
    """Start a job on a file and wait; the job."""
    reply = client.post(f"/api/audio/{kind}", {"fileId": file["id"]} | body, expect=202)
    return audio.wait_job(client, reply.json["jobId"])


def outputs(job, form):
    """{samples per pixel: bytes} of a waveform's files of one format."""
    return {f["samplesPerPixel"]: audio.download(f["url"])
            for f in job["result"]["files"] if f["format"] == form}


def test_a_track_goes_up_and_its_waveform_and_another_format_come_back(stack):
    """As the README tells it, on a whole piece of music."""
    client = stack.client()
    from harness.client import random_email
    credentials = {"email": random_email(), "password": "a quiet harbour at dawn"}
    client.post("/api/auth/register", credentials | {"name": "Nina"}, expect=201)
    client.token = client.post("/api/auth/login", credentials, expect=200).json["token"]
    music = tracks.music()

    grant = audio.begin_upload(client, "machine wars.mp3", music).json
    assert audio.put(grant, music).status_code == 200
    file = audio.complete(client, grant["key"], expect=201).json
    stream, container = audio.ffprobe(music)
    assert file["codec"] == stream["codec_name"] == "mp3"
    assert file["sampleRate"] == int(stream["sample_rate"])
    assert file["channels"] == stream["channels"]
    assert abs(file["durationMs"] - float(container["duration"]) * 1000) < 200

    job = run(client, "waveform", file, zoom=[256, 4096], bits=8)
    assert abs(job["result"]["durationMs"] - float(container["duration"]) * 1000) < 200
    for zoom, data in outputs(job, "dat").items():
        parsed = audio.parse_dat(data)
        assert parsed["samplesPerPixel"] == zoom
        assert parsed["bits"] == 8
        expected = float(container["duration"]) * file["sampleRate"] / zoom
        assert abs(parsed["length"] - expected) <= 0.01 * expected + 2

    job = run(client, "convert", file, format="flac")
    result = job["result"]
    data = audio.download(result["url"])
    assert len(data) == result["size"]
    assert audio.sha256(data) == result["sha256"]
    stream, _ = audio.ffprobe(data)
    assert stream["codec_name"] == "flac"
    assert abs(float(stream["duration"]) - float(container["duration"])) < 0.2

    made = client.get(f"/api/audio/{result['fileId']}", expect=200).json
    assert (made["status"], made["origin"], made["key"]) == ("verified", "convert", result["key"])
    assert {item["id"] for item in client.get("/api/audio").json["items"]} == {file["id"],
            made["id"]}


@pytest.fixture(scope="module")
def artist(stack):
    """An account for the tests below."""
    return stack.user()


@pytest.mark.parametrize("name,make", [("music.wav", tracks.wav), ("music.flac", tracks.flac)])
def test_peaks_of_lossless_audio_are_those_of_an_independent_computation(artist, name, make):
    data = make()
    file = audio.upload(artist.client, name, data)
    rate, channels = file["sampleRate"], file["channels"]
    samples = audio.mono(audio.decode(data, rate, channels), channels)
    job = run(artist.client, "waveform", file, zoom=[512, 2048], bits=16)
    for zoom, dat in outputs(job, "dat").items():
        parsed = audio.parse_dat(dat)
        expected = audio.peaks(samples, zoom)
        assert parsed["length"] * 2 == len(expected)
        assert audio.max_difference(parsed["points"], expected) <= 1
    for zoom, text in outputs(job, "json").items():
        told = json.loads(text)
        expected = audio.peaks(samples, zoom)
        assert told["samples_per_pixel"] == zoom
        assert told["sample_rate"] == rate
        assert told["bits"] == 16
        assert audio.max_difference(told["data"], expected) <= 1


def test_peaks_per_channel_are_those_of_each_channel(artist):
    data = tracks.wav()
    file = audio.upload(artist.client, "music.wav", data)
    samples = audio.decode(data, file["sampleRate"], 2)
    left, right = audio.peaks(samples[0::2], 1024), audio.peaks(samples[1::2], 1024)
    assert left != right
    job = run(artist.client, "waveform", file, zoom=1024, perChannel=True)
    parsed = audio.parse_dat(outputs(job, "dat")[1024])
    assert parsed["channels"] == 2
    points = parsed["points"]
    assert audio.max_difference(points[0::4], left[0::2]) <= 1
    assert audio.max_difference(points[1::4], left[1::2]) <= 1
    assert audio.max_difference(points[2::4], right[0::2]) <= 1
    assert audio.max_difference(points[3::4], right[1::2]) <= 1


def test_peaks_of_lossy_audio_are_within_one_step_of_eight_bits(artist):
    data = tracks.short_mp3()
    file = audio.upload(artist.client, "a.mp3", data)
    samples = audio.mono(audio.decode(data, file["sampleRate"], file["channels"]), file["channels"])
    job = run(artist.client, "waveform", file, zoom=1024, bits=8)
    parsed = audio.parse_dat(outputs(job, "dat")[1024])
    expected = [value // 256 for value in audio.peaks(samples, 1024)]
    usable = min(len(expected), len(parsed["points"])) - 4
    assert abs(len(parsed["points"]) - len(expected)) <= 4
    assert audio.max_difference(list(parsed["points"])[:usable], expected[:usable]) <= 1


def test_a_waveform_has_a_picture_of_the_asked_size(artist):
    file = audio.upload(artist.client, "a.mp3", tracks.short_mp3())
    job = run(artist.client, "waveform", file, width=640, height=120,
              colors={"background": "#101020", "waveform": "#ff8800"})
    [picture] = [f for f in job["result"]["files"] if f["format"] == "png"]
    data = audio.download(picture["url"])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 640
    assert int.from_bytes(data[20:24], "big") == 120


def test_pixels_per_second_choose_the_zoom(artist):
    file = audio.upload(artist.client, "music.wav", tracks.wav())
    job = run(artist.client, "waveform", file, pixelsPerSecond=100)
    parsed = audio.parse_dat(next(iter(outputs(job, "dat").values())))
    assert parsed["samplesPerPixel"] == file["sampleRate"] // 100
    assert abs(parsed["length"] - 1000) <= 2


@pytest.mark.parametrize("body,codec", [
    ({"format": "mp3", "bitrate": 192000}, "mp3"), ({"format": "mp3", "quality": 7}, "mp3"),
    ({"format": "wav"}, "pcm_s16le"),
    ({"format": "flac"}, "flac"), ({"format": "m4a", "bitrate": 128000}, "aac"),
    ({"format": "aac"}, "aac"),
    ({"format": "ogg"}, "vorbis"), ({"format": "opus", "bitrate": 96000}, "opus")],
    ids=lambda v: str(v)[:40])
def test_every_format_is_made_and_plays(artist, body, codec):
    file = audio.upload(artist.client, "music.wav", tracks.wav())
    job = run(artist.client, "convert", file, **body)
    data = audio.download(job["result"]["url"])
    stream, container = audio.ffprobe(data)
    assert stream["codec_name"] == codec
    assert stream["channels"] == 2
    duration = float(container.get("duration") or stream.get("duration") or 0)
    if body["format"] != "aac":
        assert abs(duration - 10) < 0.15
    assert abs(job["result"]["durationMs"] - 10000) < 150
    assert len(data) == job["result"]["size"]
    assert audio.sha256(data) == job["result"]["sha256"]
    decoded = audio.decode(data, 44100, 2)
    assert abs(len(decoded) / 2 / 44100 - 10) < 0.2
    if "bitrate" in body:
        assert abs(len(data) * 8 / 10 - body["bitrate"]) < 0.25 * body["bitrate"]


def test_lossless_conversion_keeps_every_sample(artist):
    data = tracks.wav()
    file = audio.upload(artist.client, "music.wav", data)
    flac = run(artist.client, "convert", file, format="flac")["result"]
    there = audio.download(flac["url"])
    back = run(artist.client, "convert", {"id": flac["fileId"]}, format="wav")["result"]
    original = audio.decode(data, 44100, 2)
    assert audio.decode(there, 44100, 2) == original
    assert audio.decode(audio.download(back["url"]), 44100, 2) == original


def test_rate_and_channels_are_changed_as_asked(artist):
    file = audio.upload(artist.client, "music.wav", tracks.wav())
    job = run(artist.client, "convert", file, format="wav", sampleRate=22050, channels=1)
    stream, _ = audio.ffprobe(audio.download(job["result"]["url"]))
    assert (int(stream["sample_rate"]), stream["channels"]) == (22050, 1)


ODD = {
    "8-bit mono": ("8bit.wav", tracks.eight_bit_mono, {"sampleRate": 8000, "channels": 1,
                                                       "bitDepth": 8}),
    "24-bit 96 kHz wav": ("24bit.wav", tracks.deep_wav, {"sampleRate": 96000, "bitDepth": 24}),
    "24-bit 96 kHz flac": ("24bit.flac", tracks.deep_flac, {"sampleRate": 96000, "bitDepth": 24,
                                                            "codec": "flac"}),
    "6 channels": ("51.flac", tracks.six_channels, {"channels": 6}),
    "cover art": ("cover.mp3", tracks.with_cover, {"codec": "mp3"}),
    "speech": ("speech.wav", tracks.speech, {"sampleRate": 22050, "channels": 1}),
    "an hour of silence": ("silence.flac", tracks.hour_of_silence, {"durationMs": 3600000}),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_files_are_understood_and_worked_on(artist, what):
    name, make, told = ODD[what]
    file = audio.upload(artist.client, name, make())
    assert {key: file[key] for key in told} == told
    waveform = run(artist.client, "waveform", file, zoom=4096)
    parsed = audio.parse_dat(outputs(waveform, "dat")[4096])
    samples = file["durationMs"] / 1000 * file["sampleRate"]
    assert abs(parsed["length"] - samples / 4096) <= 3
    if what == "an hour of silence":
        assert max(parsed["points"]) <= 1 and min(parsed["points"]) >= -1
        return
    body = {"format": "mp3"} | ({"channels": 2} if file["channels"] > 2 else {})
    if file["sampleRate"] > 48000:
        body["sampleRate"] = 48000
    stream, _ = audio.ffprobe(audio.download(run(artist.client, "convert", file,
                                                 **body)["result"]["url"]))
    assert stream["codec_name"] == "mp3"


def test_cover_art_is_kept(artist):
    file = audio.upload(artist.client, "cover.mp3", tracks.with_cover())
    result = run(artist.client, "convert", file, format="flac")["result"]
    assert audio.stream_kinds(audio.download(result["url"])) == ["audio", "video"]


@pytest.mark.parametrize("name,make", [("cut.mp3", tracks.truncated),
                                       ("cut.wav", tracks.truncated_wav)])
def test_a_truncated_file_gives_what_is_there_or_a_reason(artist, name, make):
    grant = audio.store(artist.client, name, make())
    reply = audio.complete(artist.client, grant["key"], expect=(201, 422))
    if reply.status == 422:
        assert reply.json["errors"]
        return
    started = artist.client.post("/api/audio/waveform", {"fileId": grant["fileId"], "zoom": 512},
                                 expect=202)
    job = audio.wait_job(artist.client, started.json["jobId"], wanted=("completed", "failed"))
    if job["status"] == "failed":
        assert job["error"]["code"] == "media_invalid"
        return
    assert 500 < job["result"]["durationMs"] < 5100


def test_a_file_of_no_bytes_cannot_be_announced(artist):
    reply = artist.client.post("/api/audio/upload-url", {"fileName": "empty.wav",
                                                         "contentType": "audio/wav", "size": 0},
                               expect=422)
    assert reply.violations == {("size", "range")}
