"""The media child by itself: maxbooster-media under media_run(), on local files, with no stack around it."""
import array
import glob
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import time
import zlib

import pytest

from harness import audio, tracks
from harness.medialab import BIN, FORMATS


# ---- probe ----

@pytest.mark.parametrize("make,want", [
    (tracks.wav, {"container": "wav", "codec": "pcm_s16le", "sampleRate": 44100, "channels": 2, "bitDepth": 16,
                  "durationMs": 10007}),
    (tracks.flac, {"container": "flac", "codec": "flac", "channels": 2, "bitDepth": 16}),
    (tracks.eight_bit_mono, {"codec": "pcm_u8", "sampleRate": 8000, "channels": 1, "bitDepth": 8,
                             "durationMs": 4000}),
    (tracks.deep_wav, {"codec": "pcm_s24le", "sampleRate": 96000, "bitDepth": 24, "durationMs": 4000}),
    (tracks.deep_flac, {"codec": "flac", "sampleRate": 96000, "bitDepth": 24, "durationMs": 4000}),
    (tracks.six_channels, {"codec": "flac", "channels": 6}),
    (tracks.with_cover, {"container": "mp3", "codec": "mp3", "channels": 2, "bitDepth": 0}),
    (tracks.hour_of_silence, {"codec": "flac", "durationMs": 3600000}),
    (tracks.speech, {"codec": "pcm_s16le", "channels": 1}),
    (tracks.ogg_named_mp3, {"container": "ogg", "codec": "vorbis"}),
    (tracks.truncated_wav, {"codec": "pcm_s16le", "durationMs": 1700}),
], ids=lambda v: getattr(v, "__name__", None))
def test_probe_tells_what_a_file_is(media, make, want):
    told = media.probe(make())
    assert {k: told[k] for k in want} == want


@pytest.mark.parametrize("make", [tracks.music, tracks.short_mp3, tracks.with_cover])
def test_probe_tells_the_duration_of_an_mp3_as_decoding_does(media, make):
    data = make()
    told = media.probe(data)
    rate = told["sampleRate"]
    decoded = len(audio.decode(data, rate, 1)) * 1000 / rate
    assert abs(told["durationMs"] - decoded) <= 60  # one frame, and the encoder's padding


@pytest.mark.parametrize("data,code", [
    (lambda: b"", "empty"),
    (tracks.zip_archive, "not_audio"),
    (tracks.text, "not_audio"),
    (tracks.noise, "not_audio"),
    (lambda: b"\0" * 100000, "not_audio"),
    (lambda: b"RIFF", "not_audio"),
    (lambda: tracks.wav()[:44], "corrupt"),
    (lambda: tracks.flac()[:9000], "corrupt"),
    (tracks.picture, "not_audio"),
    (lambda: b"#EXTM3U\nfile:///etc/passwd\n", "not_audio"),
    (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "not_audio"),
], ids=["empty", "zip", "text", "noise", "zeros", "riff", "head", "flac-head", "png", "playlist", "concat"])
def test_what_is_no_audio_is_refused(media, data, code):
    told = media.probe(data(), ok=False)
    assert (told["error"], told["field"], told["code"]) == ("media_invalid", "file", code)


@pytest.mark.parametrize("target", FORMATS)
def test_probe_tells_to_the_millisecond_how_long_decoding_is(media, target):
    """Also where an encoder put samples before and behind."""
    _, data = media.convert({"format": target}, tracks.wav(5))
    rate = media.probe(data)["sampleRate"]
    result, _ = media.convert({"format": "wav"}, data)
    assert result["sampleRate"] == rate
    assert abs(media.probe(data)["durationMs"] - result["durationMs"]) <= (1 if target != "aac" else 30)


def test_a_wav_without_its_length_is_heard_to_its_last_sample(media):
    """As a program leaves it that wrote into a pipe; also one that is cut off in the middle of a sample."""
    data = subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-f", "wav", "-"], input=tracks.wav(5),
                          capture_output=True, check=True, timeout=60).stdout
    assert b"data\xff\xff\xff\xff" in data
    _, whole = media.convert({"format": "wav"}, tracks.wav(5))
    _, made = media.convert({"format": "wav"}, data)
    assert made[44:] == whole[44:]
    _, made = media.convert({"format": "wav"}, data[:-3])
    assert made[44:] == whole[44:-4]


def header(rate=44100, channels=2, bits=16, data=b"\0" * 4000, claim=None):
    """A WAV of any claims."""
    block = channels * bits // 8
    size = len(data) if claim is None else claim
    return (b"RIFF" + struct.pack("<I", (36 + size) & 0xffffffff) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, (rate * block) & 0xffffffff, block & 0xffff, bits)
        + b"data" + struct.pack("<I", size & 0xffffffff) + data)


@pytest.mark.parametrize("data,code", [
    (header(rate=500), "sample_rate"),
    (header(rate=4000000), "sample_rate"),
    (header(channels=9), "channels"),
    (header(channels=60000, bits=8), "channels"),
    (header(rate=1000, channels=1, bits=8, data=b"\x80" * 2000), "too_long"),
], ids=["slow", "fast", "nine", "sixty-thousand", "long"])
def test_absurd_claims_are_refused(media, data, code):
    told = media.call("probe", media.file("input", data), ok=False, env={"MEDIA_DURATION_MAX_S": "1"})
    assert told["code"] == code


def test_an_m4a_that_says_when_it_was_made_is_heard(media, tmp_path):
    """Telling a date asks libc for the time zone, which opens a file where it is not known yet."""
    subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-metadata", "creation_time=2020-02-03T04:05:06", "-c:a", "aac",
                    tmp_path / "a.m4a"], input=tracks.wav(5), check=True)
    data = (tmp_path / "a.m4a").read_bytes()
    assert media.probe(data)["codec"] == "aac"
    assert media.convert({"format": "flac"}, data)[0]["durationMs"] > 4900


def test_a_film_without_sound_is_refused_and_with_sound_is_heard(media, tmp_path):
    base = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=64x64"]
    subprocess.run([*base, tmp_path / "a.mp4"], check=True)
    subprocess.run([*base, "-f", "lavfi", "-i", "sine=d=1", tmp_path / "b.mp4"], check=True)
    assert media.probe((tmp_path / "a.mp4").read_bytes(), ok=False)["code"] == "no_audio"
    assert media.probe((tmp_path / "b.mp4").read_bytes())["codec"] == "aac"


# ---- waveform ----

def ffmpeg_samples(path, rate, channels):
    """16-bit samples of a file, which unlike a pipe tells ffmpeg where its audio ends."""
    done = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-f", "s16le", "-ar", str(rate),
                           "-ac", str(channels), "-"], capture_output=True, timeout=120, check=True)
    samples = array.array("h")
    samples.frombytes(done.stdout)
    return samples


def ffprobe_file(path):
    """What ffprobe says of the audio stream and of the container of a file."""
    told = json.loads(subprocess.run(["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path],
                                     capture_output=True, timeout=60, check=True).stdout)
    return next(s for s in told["streams"] if s["codec_type"] == "audio"), told["format"]


def expected_peaks(samples, channels, zoom):
    return audio.peaks(audio.mono(samples, channels), zoom)


@pytest.mark.parametrize("make,channels", [(tracks.wav, 2), (tracks.flac, 2), (tracks.speech, 1),
                                           (tracks.six_channels, 6)])
def test_waveform_is_exactly_what_the_samples_say(media, make, channels):
    data = make()
    samples = audio.decode(data, media.probe(data)["sampleRate"], channels)
    result, files = media.run("waveform", {"zoom": [64, 1000], "bits": 16}, data)
    assert [f["format"] for f in result["files"]] == ["dat", "json", "dat", "json", "png"]
    for i, zoom in enumerate([64, 1000]):
        want = expected_peaks(samples, channels, zoom)
        dat, told = audio.parse_dat(files[2 * i]), json.loads(files[2 * i + 1])
        assert list(dat["points"]) == want
        assert told["data"] == want
        assert (told["length"], told["samples_per_pixel"], told["version"]) == (len(want) // 2, zoom, 2)
    for f in result["files"]:
        body = files[f["output"]]
        assert (f["size"], f["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_waveform_in_8_bits_and_per_channel(media):
    data = tracks.wav(5)
    samples = audio.decode(data, 44100, 2)
    _, files = media.run("waveform", {"zoom": 256, "bits": 8, "perChannel": True}, data)
    dat = audio.parse_dat(files[0])
    left, right = (audio.peaks(samples[c::2], 256) for c in (0, 1))
    want = [int(v / 256) for pair in zip(left[::2], left[1::2], right[::2], right[1::2]) for v in pair]
    assert (dat["version"], dat["bits"], dat["channels"]) == (2, 8, 2)
    assert list(dat["points"]) == want
    assert json.loads(files[1])["data"] == want


def test_peaks_that_are_too_many_to_hold_are_written_as_they_come(media, tmp_path):
    """Zoom 2 is streamed, in two decodes; zoom 4 is held, and what is held has its own tests."""
    path = tmp_path / "long.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "1", "-i", tracks.MUSIC, "-t", "310", "-ac", "1", "-ar",
                    "44100", path], check=True, timeout=60)
    result, files = media.run("waveform", {"zoom": [2, 4]}, path.read_bytes())
    fine, coarse = (audio.parse_dat(files[n]) for n in (0, 2))
    points = fine["points"]
    assert (fine["length"], len(points)) == (310 * 44100 // 2, 310 * 44100)
    assert list(coarse["points"][0::2]) == list(map(min, points[0::4], points[2::4]))
    assert list(coarse["points"][1::2]) == list(map(max, points[1::4], points[3::4]))
    head, _, data = files[1].partition(b'"data":[')
    assert json.loads(head + b'"data":[]}')["length"] == fine["length"]
    assert data == ",".join(map(str, points)).encode() + b"]}\n"
    assert [f["format"] for f in result["files"]] == ["dat", "json", "dat", "json", "png"]


def test_a_length_that_was_promised_wrongly_is_corrected_where_peaks_are_streamed(media):
    data = bytearray(tracks.hour_of_silence())
    data[21:26] = bytes([data[21] & 0xf0, 0, 0, 0, 0])  # its header no longer tells a length
    _, files = media.run("waveform", {"zoom": 16}, bytes(data))
    dat = audio.parse_dat(files[0])
    assert dat["length"] == 3600 * 44100 // 16 and len(dat["points"]) == 2 * dat["length"]
    assert files[1].startswith(b'{"version":2,"channels":1,"sample_rate":44100,"samples_per_pixel":16,"bits":16,'
                               b'"length":9922500,"data":[0,0,')


@pytest.mark.parametrize("version", [None, 1, 2])
def test_waveform_version_is_as_asked_for_and_like_audiowaveform_otherwise(media, version):
    params = {"zoom": 256} if version is None else {"zoom": 256, "version": version}
    _, files = media.run("waveform", params, tracks.wav(5))
    assert audio.parse_dat(files[0])["version"] == (version or 1)
    assert audio.parse_dat(files[0])["channels"] == 1


def test_waveform_of_24_bits_is_cut_to_16(media):
    data = tracks.deep_wav()
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-f", "s32le", "-"], input=data,
                         capture_output=True, check=True).stdout
    wide = array.array("i")
    wide.frombytes(raw)
    _, files = media.run("waveform", {"zoom": 512}, data)
    assert list(audio.parse_dat(files[0])["points"]) == expected_peaks([v >> 16 for v in wide], 2, 512)


def test_waveform_of_lossy_input_is_within_one_8_bit_step(media):
    data = tracks.with_cover()
    rate = media.probe(data)["sampleRate"]
    samples = ffmpeg_samples(media.folder / "input", rate, 2)
    _, files = media.run("waveform", {"pixelsPerSecond": 100, "bits": 8}, data)
    dat = audio.parse_dat(files[0])
    assert dat["samplesPerPixel"] == rate // 100
    want = [int(v / 256) for v in expected_peaks(samples, 2, rate // 100)]
    assert audio.max_difference(list(dat["points"]), want) <= 1


def png_rows(data):
    """Width, height, palette, transparency and rows of indexes of a PNG without interlacing and filters."""
    at, chunks = 8, {}
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", data, at + 8 + length)[0]
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + length
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    raw = zlib.decompress(chunks[b"IDAT"])
    return width, height, chunks[b"PLTE"], chunks.get(b"tRNS"), [
        raw[y * (width + 1) + 1:(y + 1) * (width + 1)] for y in range(height)]


def test_the_picture_has_the_size_and_colours_and_shape_asked_for(media):
    _, files = media.run("waveform", {"width": 640, "height": 100, "zoom": 256, "colors": {
        "background": "#10203000", "waveform": "#ff8000"}}, tracks.wav())
    width, height, palette, clear, rows = png_rows(files[2])
    assert (width, height) == (640, 100)
    assert palette[127 * 3:127 * 3 + 3] == b"\xff\x80\x00"
    assert clear[0] == 0 and clear[127] == 255
    assert set(rows[0]) == {0}  # nothing at the very edge
    assert all(rows[50]) or all(rows[49])  # a line in the middle, also where it is quiet
    loud = [sum(1 for y in range(100) if rows[y][x]) for x in range(640)]
    assert max(loud) > 30


def test_waveform_of_a_cut_off_file_gives_what_is_there(media):
    result, files = media.run("waveform", {"zoom": 256}, tracks.truncated())
    assert 2000 < result["durationMs"] < 3000
    assert audio.parse_dat(files[0])["length"] > 100


@pytest.mark.parametrize("params,field", [
    ({"bits": 7}, "bits"), ({"zoom": 1}, "zoom"), ({"zoom": [256] * 9}, "zoom"), ({"zoom": "x"}, "zoom"),
    ({"zoom": 256, "pixelsPerSecond": 10}, "pixelsPerSecond"), ({"pixelsPerSecond": 30000}, "pixelsPerSecond"),
    ({"version": 1, "perChannel": True}, "version"), ({"width": 0}, "width"), ({"height": 99999}, "height"),
    ({"colors": {"waveform": "red"}}, "colors.waveform"), ({"colors": {"background": "#12345"}}, "colors.background"),
])
def test_waveform_refuses_what_does_not_fit(media, params, field):
    told, files = media.run("waveform", params, tracks.wav(5), ok=False)
    assert (told["error"], told["field"]) == ("validation_failed", field)
    assert not any(files.values())


# ---- convert ----

@pytest.mark.parametrize("target", FORMATS)
def test_convert_gives_each_format_at_full_length(media, target):
    result, data = media.convert({"format": target}, tracks.flac())
    path = media.folder / "out.0"
    stream, container = ffprobe_file(path)
    assert result["format"] == target and result["codec"] == stream["codec_name"]
    assert result["sampleRate"] == int(stream["sample_rate"])
    assert result["channels"] == stream["channels"] == 2
    want = len(audio.decode(tracks.flac(), 22050, 1)) * 1000 / 22050
    assert abs(result["durationMs"] - want) <= 1
    got = len(ffmpeg_samples(path, result["sampleRate"], 1)) * 1000 / result["sampleRate"]
    assert abs(got - want) <= (94 if target in ("aac", "m4a") else 7)  # two frames of AAC at 22,050 Hz
    if target != "aac":
        assert abs(float(container["duration"]) * 1000 - want) <= 100  # an MP3 counts whole frames
    assert audio.decode(data, 22050, 1)  # also where it cannot be sought


def test_m4a_has_its_index_in_front_or_where_the_length_was_misjudged_behind(media, tmp_path):
    def boxes(body):
        at, found = 0, []
        while at < len(body):
            size, kind = struct.unpack_from(">I4s", body, at)
            found.append(kind.decode())
            at += size
        assert at == len(body)
        return found
    _, data = media.convert({"format": "m4a"}, tracks.flac())
    assert [b for b in boxes(data) if b != "free"] == ["ftyp", "moov", "mdat"]
    # A stream without a length, loud first and silent then: ten times as long as its first bytes suggest.
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=d=20:a=0.9", "-f", "lavfi", "-i",
                    "anullsrc=d=900:r=48000:cl=mono", "-filter_complex", "[0][1]concat=v=0:a=1", "-c:a", "aac",
                    "-q:a", "4", tmp_path / "s.aac"], check=True)
    result, data = media.convert({"format": "m4a", "bitrate": 32000}, (tmp_path / "s.aac").read_bytes())
    assert [b for b in boxes(data) if b != "free"] == ["ftyp", "mdat", "moov"]
    stream, _ = ffprobe_file(media.folder / "out.0")
    assert abs(float(stream["duration"]) * 1000 - result["durationMs"]) < 60
    assert 919000 < result["durationMs"] < 921000


def as_samples(path):
    """16-bit samples of the first channel."""
    return ffmpeg_samples(path, 48000, 2)[::2]


def box(name, body):
    """A box of an MP4."""
    return struct.pack(">I4s", 8 + len(body), name) + body


def with_itunes_length(data, delay, padding, samples):
    """An M4A whose boxes end with moov, with the tag that iTunes writes and without an edit list."""
    text = f" 00000000 {delay:08X} {padding:08X} {samples:016X} " + "00000000 " * 8
    tag = box(b"----", box(b"mean", b"\0" * 4 + b"com.apple.iTunes") + box(b"name", b"\0" * 4 + b"iTunSMPB")
              + box(b"data", struct.pack(">II", 1, 0) + text.encode()))
    udta = box(b"udta", box(b"meta", b"\0" * 4 + box(b"hdlr", b"\0" * 8 + b"mdirappl" + b"\0" * 9)
                            + box(b"ilst", tag)))
    at = data.index(b"moov") - 4
    assert at + struct.unpack_from(">I", data, at)[0] == len(data)
    return data[:at] + struct.pack(">I", len(data) - at + len(udta)) + data[at + 4:] + udta


def encoded_aac(path, seconds, *options):
    """AAC of the music in an M4A, and its number of samples."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", "-", "-ar", "48000", "-map_metadata", "-1", "-c:a", "aac",
                    *options, path], input=tracks.wav(seconds), check=True)
    return len(audio.decode(tracks.wav(seconds), 48000, 1))


@pytest.mark.parametrize("through", [f for f in FORMATS if f != "aac"])
@pytest.mark.parametrize("target", [f for f in FORMATS if f != "aac"])
def test_no_sample_is_added_or_lost_from_any_format_to_any_other(media, through, target, tmp_path):
    """Encoders' delay and padding are marked by one and cut off by the other."""
    subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-ar", "48000", "-c:a", "pcm_s16le", tmp_path / "s.wav"],
                   input=tracks.wav(5), check=True)
    source = as_samples(tmp_path / "s.wav")
    _, data = media.convert({"format": target}, media.convert({"format": through}, (tmp_path / "s.wav").read_bytes())[1])
    back, _ = media.convert({"format": "wav"}, data)
    samples = as_samples(media.folder / "out.0")
    assert len(samples) == len(source)
    # In place, too: the sum of products is greatest without a shift.
    product = {shift: sum(a * b for a, b in zip(source[20000 + shift:30000 + shift], samples[20000:30000]))
               for shift in range(-3, 4)}
    assert max(product, key=product.get) == 0
    assert back["durationMs"] == (len(source) + 24) // 48


def test_the_edit_list_of_an_m4a_tells_delay_and_length_in_samples(media):
    _, data = media.convert({"format": "m4a"}, tracks.wav(5))
    at = data.index(b"elst")
    length, start = struct.unpack_from(">II", data, at + 12)
    assert (length, start) == (len(audio.decode(tracks.wav(5), 44100, 1)), 1024)
    assert struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0] == 44100


@pytest.mark.parametrize("off,want", [(-300, -300), (-20000, 0), (10**9, 0)])
def test_what_itunes_says_of_delay_and_padding_is_kept_unless_it_is_absurd(media, tmp_path, off, want):
    samples = encoded_aac(tmp_path / "s.m4a", 5, "-use_editlist", "0")
    frames = -(-(samples + 1024) // 1024)
    data = with_itunes_length((tmp_path / "s.m4a").read_bytes(), 1024, frames * 1024 - 1024 - samples, samples + off)
    media.convert({"format": "wav"}, data)
    assert len(as_samples(media.folder / "out.0")) == samples + want


@pytest.mark.parametrize("target", ["wav", "flac"])
@pytest.mark.parametrize("make,form", [(tracks.wav, "s16le"), (tracks.deep_flac, "s24le"),
                                       (tracks.six_channels, "s16le")])
def test_lossless_to_lossless_changes_no_sample(media, make, form, target):
    source = make()
    result, data = media.convert({"format": target}, source)

    def samples(body):
        return subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-f", form, "-"], input=body,
                              capture_output=True, check=True).stdout
    assert result["bitDepth"] == (24 if form == "s24le" else 16)
    assert samples(data) == samples(source)


def test_headers_that_are_corrected_in_the_end_are_right(media, tmp_path):
    _, wav = media.convert({"format": "wav"}, tracks.flac())
    assert struct.unpack_from("<I", wav, 4)[0] == len(wav) - 8
    at = wav.index(b"data")
    assert struct.unpack_from("<I", wav, at + 4)[0] == len(wav) - at - 8
    _, flac = media.convert({"format": "flac"}, tracks.wav())
    total = struct.unpack_from(">Q", flac, 8 + 10)[0] & 0xfffffffff
    assert total == len(audio.decode(tracks.wav(), 44100, 2)) // 2
    md5 = hashlib.md5(audio.decode(tracks.wav(), 44100, 2).tobytes()).digest()
    assert flac[8 + 18:8 + 34] == md5
    _, mp3 = media.convert({"format": "mp3", "bitrate": 128000}, tracks.wav())
    at = mp3.index(b"Info")
    frames, size = struct.unpack_from(">II", mp3, at + 8)
    assert 0 <= frames * 1152 - total - 1105 < 2 * 1152
    assert size == len(mp3) - (at - 36)  # counted from the header of the frame that holds it


def tagged(folder, *more):
    """Five seconds of MP3 with tags and a picture, and the picture."""
    cover = tracks.picture()
    (folder / "c.png").write_bytes(cover)
    (folder / "s.wav").write_bytes(tracks.wav(5))
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", folder / "s.wav", "-i", folder / "c.png", "-map", "0",
                    "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic", "-metadata", "title=Żółw ♫",
                    "-metadata", "artist=Someone", "-metadata", "track=3/9", *more, folder / "s.mp3"], check=True)
    return (folder / "s.mp3").read_bytes(), cover


def tags_of(path):
    """Tags as ffprobe reads them; Ogg has them at the stream."""
    stream, container = ffprobe_file(path)
    return {k.lower(): v for part in (stream, container) for k, v in part.get("tags", {}).items()}


@pytest.mark.parametrize("through", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_tags_and_cover_are_kept_from_any_format_to_any_other(media, through, target, tmp_path):
    source, cover = tagged(tmp_path)
    _, data = media.convert({"format": target}, media.convert({"format": through}, source)[1])
    tags = tags_of(media.folder / "out.0")
    assert (tags["title"], tags["artist"], tags["track"]) == ("Żółw ♫", "Someone", "3/9")
    if target in ("ogg", "opus"):
        picture = subprocess.run(["ffmpeg", "-v", "error", "-i", media.folder / "out.0", "-map", "0:v", "-c", "copy",
                                  "-f", "image2pipe", "-"], capture_output=True, check=True).stdout
        assert picture == cover
    else:
        assert data.count(cover) == 1
    assert media.probe(data)["channels"] == 2


def test_the_chunk_with_the_tags_is_part_of_a_wav(media, tmp_path):
    _, data = media.convert({"format": "wav"}, tagged(tmp_path)[0])
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    at, names = 12, []
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        names.append(name)
        at += 8 + size + (size & 1)
    assert at == len(data) and names[-2:] == [b"data", b"id3 "]


@pytest.mark.parametrize("params,kept", [({}, True), ({"targetLufs": -30}, False)])
def test_what_tags_say_of_loudness_goes_where_it_is_changed(media, tmp_path, params, kept):
    source, _ = tagged(tmp_path, "-metadata", "REPLAYGAIN_TRACK_GAIN=-3.20 dB")
    media.convert({"format": "flac", **params}, source)
    tags = tags_of(media.folder / "out.0")
    assert ("replaygain_track_gain" in tags) is kept and "title" in tags


def test_convert_takes_rate_channels_bitrate_quality_and_loudness(media, tmp_path):
    source = tracks.wav()
    result, data = media.convert({"format": "mp3", "bitrate": 96000, "sampleRate": 22050, "channels": 1}, source)
    stream, container = audio.ffprobe(data)
    assert (stream["sample_rate"], stream["channels"]) == ("22050", 1)
    assert abs(int(stream["bit_rate"]) - 96000) < 2000
    best = len(media.convert({"format": "mp3", "quality": 10}, source)[1])
    worst = len(media.convert({"format": "mp3", "quality": 0}, source)[1])
    assert best > 2 * worst
    _, data = media.convert({"format": "wav", "targetLufs": -23}, source)
    (tmp_path / "l.wav").write_bytes(data)
    told = subprocess.run(["ffmpeg", "-nostdin", "-i", tmp_path / "l.wav", "-af", "ebur128", "-f", "null", "-"],
                          capture_output=True, check=True).stderr.decode()
    assert abs(float(re.findall(r"I:\s+(-?[\d.]+) LUFS", told)[-1]) + 23) < 0.3


def test_six_channels_become_two_where_the_format_has_no_more(media):
    assert media.convert({"format": "mp3"}, tracks.six_channels())[0]["channels"] == 2
    assert media.convert({"format": "opus"}, tracks.six_channels())[0]["channels"] == 6


@pytest.mark.parametrize("target", FORMATS)
def test_samples_that_are_no_numbers_end_no_encoder(media, target):
    wild = [1e30, -1e30, float("nan"), float("inf"), float("-inf"), 1e-40, 3.4e38, 0.5]
    data = struct.pack("<" + "f" * 40000, *(wild * 5000))
    source = (b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 3, 2, 44100, 352800, 8, 32) + b"data" + struct.pack("<I", len(data)) + data)
    result, _ = media.convert({"format": target}, source)
    assert result["durationMs"] in (453, 454)


@pytest.mark.parametrize("params,field", [
    ({}, "format"), ({"format": "exe"}, "format"), ({"format": "wav", "bitrate": 128000}, "bitrate"),
    ({"format": "mp3", "bitrate": 1}, "bitrate"), ({"format": "mp3", "quality": 11}, "quality"),
    ({"format": "mp3", "bitrate": 128000, "quality": 3}, "quality"), ({"format": "mp3", "channels": 6}, "channels"),
    ({"format": "opus", "sampleRate": 44100}, "sampleRate"), ({"format": "mp3", "sampleRate": 96000}, "sampleRate"),
    ({"format": "wav", "targetLufs": 3}, "targetLufs"), ({"format": "wav\nchannels=1"}, "format"),
])
def test_convert_refuses_what_does_not_fit(media, params, field):
    told, _ = media.run("convert", params, tracks.wav(5), ok=False)
    assert (told["error"], told["field"]) == ("validation_failed", field)


def test_the_same_input_gives_the_same_bytes(media):
    for target in FORMATS:
        assert media.convert({"format": target}, tracks.wav(5))[1] == media.convert(
            {"format": target}, tracks.wav(5))[1]


# ---- the sandbox and the parent ----

def children_of(trace):
    """System calls of each traced process that ran maxbooster-media, in order, with their arguments."""
    found = []
    for path in glob.glob(f"{trace}.*"):
        lines = pathlib.Path(path).read_text(errors="replace").splitlines()
        if any("maxbooster-media" in line and "execve(" in line for line in lines):
            found.append([m.groups() for m in (re.match(r"(\w+)\((.*)", line) for line in lines) if m])
    return found


@pytest.mark.parametrize("operation,params", [
    ("waveform", {"zoom": 256}), ("convert", {"format": "mp3"}), ("convert", {"format": "ogg"}),
    ("convert", {"format": "flac", "targetLufs": -16}), ("convert", {"format": "m4a"}), ("analyse", {}),
    ("mix", {"format": "opus", "tracks": [{"gainDb": 3}]})])
def test_nothing_but_memory_and_the_socket_is_used_once_the_door_is_locked(media, tmp_path, operation, params):
    media.run(operation, params, tracks.with_cover(),
              wrap=["strace", "-f", "-ff", "-qq", "-o", str(tmp_path / "trace")])
    (calls,) = children_of(tmp_path / "trace")
    locked = max(i for i, (name, args) in enumerate(calls) if name == "seccomp" and "SET_MODE_FILTER" in args)
    after = calls[locked + 1:]
    allowed = {"brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "sendto", "recvfrom", "exit_group",
               "getrandom", "clock_gettime", "getpid", "gettid"}
    assert {name for name, _ in after} <= allowed
    assert len(after) > 10
    assert all(args.startswith("3,") for name, args in after if name in ("sendto", "recvfrom"))
    opened = [args for name, args in calls if name in ("openat", "open", "creat")]
    assert not [args for args in opened if re.search(r"O_WRONLY|O_CREAT", args)]
    assert not [name for name, _ in calls if name in ("socket", "connect", "clone", "fork", "vfork")]


def test_the_child_inherits_nothing_but_two_descriptors(media, tmp_path):
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\nls -l /proc/self/fd > %s/fds\nenv > %s/env\n" % (tmp_path, tmp_path))
    fake.chmod(0o755)
    told = media.call("run", "convert", '{"format":"wav"}', tmp_path / "out", media.file("input", tracks.wav(5)),
                      ok=False, env={"MEDIA_PROGRAM": str(fake), "AWS_SECRET_ACCESS_KEY": "geheim"})
    assert told["error"] == "internal"
    fds = set(re.findall(r" (\d+) -> ", (tmp_path / "fds").read_text()))
    assert {"0", "1", "2", "3", "4"} <= fds <= {"0", "1", "2", "3", "4", "5"}  # 5: ls' own folder
    assert "geheim" not in (tmp_path / "env").read_text()


def write_child(tmp_path, body):
    """A hostile child in Python that speaks the protocol."""
    fake = tmp_path / "fake"
    fake.write_text(f"""#!/usr/bin/python3
import socket, struct, os, time, sys
s = socket.socket(fileno=3)
def say(kind, index=0, offset=0, position=0, length=0, payload=b""):
    s.send(struct.pack("<IIqqq", kind, index, offset, position, length) + payload)
start = s.recv(65536)
READ, WRITE, REWRITE, FINISH, PROGRESS, RESULT, FAIL = 4, 5, 6, 7, 8, 9, 10
{body}
""")
    fake.chmod(0o755)
    return {"MEDIA_PROGRAM": str(fake)}


@pytest.mark.parametrize("body,error", [
    ("say(READ, index=7)", "internal"),
    ("say(READ, offset=-5)", "internal"),
    ("say(WRITE, index=99, length=10)", "internal"),
    ("say(WRITE, index=2**31, length=10)", "internal"),
    ("say(WRITE, position=4, length=10)", "internal"),
    ("say(WRITE, position=-1, length=10)", "internal"),
    ("say(WRITE, length=2**40)", "internal"),
    ("say(WRITE, length=-1)", "internal"),
    ("say(WRITE, length=10); say(REWRITE, offset=5, length=10)", "internal"),
    ("say(REWRITE, offset=2**62, length=2**62)", "internal"),
    ("say(FINISH); say(WRITE, length=1)", "internal"),
    ("say(FINISH); say(FINISH)", "internal"),
    ("say(WRITE, length=1); say(RESULT, payload=b'{}')", "internal"),
    ("say(RESULT, payload=b'{\"output\":5}')", "internal"),
    ("say(RESULT, payload=b'[1]')", "internal"),
    ("say(RESULT, payload=b'{\"a\":')", "internal"),
    ("say(RESULT, payload=b'{\"a\":\"\\xff\"}')", "internal"),
    ("say(RESULT, payload=b'{' + b' ' * 20000 + b'}')", "internal"),
    ("s.send(b'x')", "internal"),
    ("s.send(b'x' * 60000)", "internal"),
    ("say(77)", "internal"),
    ("say(FAIL, index=9999)", "internal"),
    ("say(FAIL, index=2, offset=-2**63)", "media_invalid"),
    ("os.kill(os.getpid(), 11)", "internal"),
    ("sys.exit(0)", "internal"),
    ("for i in range(100000): say(WRITE, length=1)", "internal"),
    ("for i in range(2**30): say(WRITE, length=262144); s.recv(100)", "media_invalid"),
    ("import signal; signal.pause()", "timed_out"),
    ("while True: say(PROGRESS, length=50)", "timed_out"),
    ("while True: say(READ); s.recv(100)", "timed_out"),
])
def test_a_hostile_child_is_one_failed_call(media, tmp_path, body, error):
    before = time.monotonic()
    told = media.call("--timeout-ms", "1500", "--discard", "run", "convert", "{}", tmp_path / "out",
                      media.file("input", tracks.wav(5)), ok=False,
                      env={**write_child(tmp_path, body), "MEDIA_OUTPUT_MAX_BYTES": "1048576"})
    assert told["error"] == error, told
    assert time.monotonic() - before < 6


def test_a_file_that_crashes_the_decoder_is_refused_when_probed(media, tmp_path):
    told = media.call("probe", media.file("input", tracks.wav(5)), ok=False,
                      env=write_child(tmp_path, "os.kill(os.getpid(), 11)"))
    assert (told["error"], told["code"]) == ("media_invalid", "corrupt")


@pytest.mark.parametrize("options", [[], ["--slow-us", "20000"]])
def test_cancelling_ends_the_child(media, tmp_path, options):
    told = media.call("--cancel-ms", "500", "--discard", *options, "run", "convert",
                      '{"format":"flac","targetLufs":-20}', tmp_path / "out",
                      media.file("input", tracks.hour_of_silence()), ok=False)
    assert told["error"] == "conflict"
    assert not subprocess.run(["pgrep", "-P", str(os.getpid()), "maxbooster-medi"], capture_output=True,
                              check=False).stdout


def test_children_of_several_threads_do_not_disturb_each_other(media, tmp_path):
    done = subprocess.run([BIN / "media-driver", "--threads", "12", "run", "convert", '{"format":"ogg"}',
                           tmp_path / "out", media.file("input", tracks.wav(5))], capture_output=True,
                          timeout=120, check=True, env={"PATH": "/usr/bin"})
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 12 and len(set(lines)) == 1


def peak_kib(operation, params, path):
    """The child's peak memory, its share of the parent's blocks included."""
    done = subprocess.run(["/usr/bin/time", "-f", "%M", BIN / "media-driver", "--discard", "run", operation,
                           json.dumps(params), "out", path], capture_output=True, timeout=120,
                          env={"PATH": "/usr/bin"}, check=True)
    return int(done.stderr.split()[-1])


def test_memory_is_bounded_for_a_long_file(media):
    """An hour, also at a zoom of 40 MB."""
    path = media.file("input", tracks.hour_of_silence())
    assert peak_kib("waveform", {"zoom": [16, 64, 256]}, path) < 64 * 1024


def test_the_index_of_an_m4a_is_kept_in_2_bytes_a_packet(media):
    """An hour has 155,000; a WAV has no index."""
    path = media.file("input", tracks.hour_of_silence())
    assert peak_kib("convert", {"format": "m4a"}, path) < peak_kib("convert", {"format": "wav"}, path) + 4 * 1024


def test_more_peaks_than_memory_is_a_clear_error(media, tmp_path):
    told = media.call("--discard", "run", "waveform", '{"zoom":2}', tmp_path / "out",
                      media.file("input", tracks.hour_of_silence()), ok=False)
    assert (told["error"], told["code"]) == ("media_invalid", "result_too_large"), told


def test_too_little_memory_is_a_clear_error(media, tmp_path):
    told = media.call("--discard", "run", "waveform", '{"zoom":2}', tmp_path / "out",
                      media.file("input", tracks.hour_of_silence()), ok=False, env={"MEDIA_MEMORY_MIB": "32"})
    assert (told["error"], told["code"]) == ("media_invalid", "too_complex"), told
