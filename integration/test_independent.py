"""Loudness, peaks and real speech, judged by programs that share nothing with ours."""
import hashlib
import json
import pathlib
import random
import shutil
import struct
import subprocess

import pytest

from harness import audio, medialab, tracks

CACHE = pathlib.Path.home() / ".cache/maxbooster"
PYLOUDNORM = ["pyloudnorm==0.2.0", "numpy==2.4.6", "scipy==1.17.1"]
WAVEFORM_DATA = "waveform-data@4.5.2"

METER = """
import sys
import numpy, pyloudnorm
rate, channels = int(sys.argv[1]), int(sys.argv[2])
samples = numpy.frombuffer(sys.stdin.buffer.read(), dtype="<f4").reshape(-1, channels)
print(pyloudnorm.Meter(rate).integrated_loudness(samples.astype(float)))
"""
READER = """
const fs = require('fs'), WaveformData = require('waveform-data');
const dat = fs.readFileSync(process.argv[1]);
const json = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const told = [dat.buffer.slice(dat.byteOffset, dat.byteOffset + dat.length), json].map((from) => {
    const w = WaveformData.create(from);
    const channels = [...Array(w.channels).keys()].map((c) => [w.channel(c).min_array(), w.channel(c).max_array()]);
    return {rate: w.sample_rate, scale: w.scale, bits: w.bits, length: w.length, seconds: w.duration, channels};
});
console.log(JSON.stringify(told));
"""


def installed(name, make):
    """A folder that make(folder) fills, once on this machine."""
    folder = CACHE / name
    if not (folder / "is-whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / "is-whole").touch()
    return folder


@pytest.fixture(scope="session")
def pyloudnorm():
    """A Python that has it."""
    def make(folder):
        subprocess.run(["/usr/bin/python3", "-m", "venv", folder], check=True, timeout=300)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *PYLOUDNORM], check=True, timeout=600)
    return installed("pyloudnorm-0.2.0", make) / "bin/python"


@pytest.fixture(scope="session")
def waveform_data():
    """A folder where node finds it: the parser of peaks.js."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    return installed("waveform-data-4.5.2", lambda folder: subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", folder, WAVEFORM_DATA], check=True,
        timeout=300))


def speech(name="005"):
    """A man reading playing cards aloud, as recorded: WAV, mono, 16 kHz (Debian's pocketsphinx-testdata)."""
    path = pathlib.Path(f"/usr/share/pocketsphinx/test/data/cards/{name}.wav")
    assert path.exists(), "speech is missing: apt-get install pocketsphinx-testdata"
    return path.read_bytes()


def at_48_khz(make):
    """Where meters agree on the weighting filter: BS.1770 gives it for this rate, and they carry it on to lower
    ones each in its way (0.13 LU apart at 16 kHz, 0.26 at 8)."""
    return subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-ar", "48000", "-f", "wav", "-"], input=make(),
                          capture_output=True, check=True, timeout=60).stdout


MATERIAL = {"music": tracks.flac, "speech": speech, "music in 24 bits": tracks.deep_wav}

# What audiowaveform 1.10.3, built from its source, makes of a file: zoom, bits, --split-channels, and the
# beginning of the SHA-256 of its .dat and its .json.
GOLDEN = [
    ("noise", 256, 8, False, "7cd0203759dff9d1", "81426f5b5671e968"),
    ("noise", 100, 16, False, "580a362acfd7c0c2", "79236b4c1f8992ab"),
    ("noise", 256, 16, True, "87e8f9503a0e6fa8", "3e25659fb7555976"),
    ("speech", 256, 8, False, "37a4e3017aef395f", "6b2e864506d83df3"),
    ("speech", 100, 16, False, "7e8c7c8abb64b566", "9df8d6f8c3a0280f"),
    ("speech", 256, 16, True, "aab5c91a0060a509", "c0eb6977fa43197d"),
]


def noise():
    """Two seconds of random 16-bit samples, stereo, the same each time."""
    data = random.Random(7).randbytes(352800)
    return (b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 2, 44100, 176400, 4, 16) + b"data" + struct.pack("<I", len(data)) + data)


@pytest.mark.parametrize("name,zoom,bits,split,dat,told", GOLDEN)
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_waveform_is_audiowaveforms_byte_for_byte(media, form, name, zoom, bits, split, dat, told):
    data = noise() if name == "noise" else speech()
    if form == "flac":
        data = subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-f", "flac", "-"], input=data, capture_output=True,
                              check=True, timeout=60).stdout
    _, files = media.run("waveform", {"zoom": zoom, "bits": bits, "perChannel": split}, data)
    assert [hashlib.sha256(files[n]).hexdigest()[:16] for n in (0, 1)] == [dat, told]


@pytest.mark.parametrize("make", MATERIAL.values(), ids=MATERIAL)
def test_loudness_is_that_of_pyloudnorm(media, pyloudnorm, make):
    told = media.run("analyse", {}, at_48_khz(make))[0]["analysis"]
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", media.folder / "input", "-f", "f32le", "-"],
                         capture_output=True, check=True, timeout=60).stdout
    done = subprocess.run([pyloudnorm, "-c", METER, str(told["sampleRate"]), str(told["channels"])], input=raw,
                          capture_output=True, check=True, timeout=120)
    assert abs(told["integratedLufs"] - float(done.stdout)) <= 0.1


@pytest.mark.parametrize("make,target", [(tracks.flac, -16), (tracks.flac, -23), (speech, -24)])
def test_a_loudness_target_is_met_as_pyloudnorm_hears_it(media, pyloudnorm, make, target):
    media.convert({"format": "flac", "targetLufs": target}, at_48_khz(make))
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", media.folder / "out.0", "-f", "f32le", "-"],
                         capture_output=True, check=True, timeout=60).stdout
    stream, _ = audio.ffprobe((media.folder / "out.0").read_bytes())
    done = subprocess.run([pyloudnorm, "-c", METER, stream["sample_rate"], str(stream["channels"])], input=raw,
                          capture_output=True, check=True, timeout=120)
    assert abs(float(done.stdout) - target) <= 0.3


@pytest.mark.parametrize("params", [{"zoom": 256}, {"zoom": 512, "bits": 8}, {"zoom": 256, "perChannel": True},
                                    {"zoom": 100, "bits": 8, "perChannel": True}, {"zoom": 64, "version": 2}],
                         ids=lambda p: "-".join(p))
def test_peaks_js_reads_both_forms_and_finds_the_peaks_in_them(media, waveform_data, params):
    data = tracks.wav()
    _, files = media.run("waveform", params, data)
    done = subprocess.run(["node", "-e", READER, media.folder / "out.0", media.folder / "out.1"], cwd=waveform_data,
                          capture_output=True, timeout=60, check=True)
    samples = audio.decode(data, 44100, 2)
    planes = [samples[0::2], samples[1::2]] if params.get("perChannel") else [audio.mono(samples, 2)]
    for told in json.loads(done.stdout):
        assert (told["rate"], told["scale"], told["bits"]) == (44100, params["zoom"], params.get("bits", 16))
        assert abs(told["seconds"] - len(planes[0]) / 44100) < params["zoom"] / 44100 + 0.001
        for plane, (least, most) in zip(planes, told["channels"], strict=True):
            want = audio.peaks(plane, params["zoom"])
            if told["bits"] == 8:
                want = [int(v / 256) for v in want]
            assert [*least] == want[0::2] and [*most] == want[1::2]
    assert audio.parse_dat(files[0])["length"] == told["length"]


@pytest.mark.parametrize("target", medialab.FORMATS)
def test_real_speech_comes_through_every_format(media, tmp_path, target):
    """As long as it was, and by sox's own statistics as loud as it was."""
    def level(data, name):
        path = tmp_path / name
        path.write_bytes(data)
        wav = tmp_path / (name + ".wav")
        subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-ar", "16000", "-ac", "1", wav], check=True, timeout=60)
        told = subprocess.run(["sox", wav, "-n", "stat"], capture_output=True, check=True, timeout=60).stderr.decode()
        figures = dict(line.split(":") for line in told.splitlines() if line.count(":") == 1)
        return float(figures["Length (seconds)"]), float(figures["RMS     amplitude"])
    source = speech()
    _, made = media.convert({"format": target}, source)
    (seconds, loud), (seconds_made, loud_made) = level(source, "source"), level(made, "made")
    assert abs(seconds - seconds_made) < (0.15 if target in ("aac", "m4a") else 0.01)
    assert abs(loud_made / loud - 1) < 0.08
