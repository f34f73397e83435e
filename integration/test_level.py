"""A loudness target, held with its true peak: what independent meters say of the decoded result."""
import json
import re
import subprocess

import pytest

from harness import tracks

# Formats, from exact to coarse.
TARGETS = [{"format": "flac"}, {"format": "wav", "sampleRate": 22050}, {"format": "mp3", "bitrate": 192000},
           {"format": "m4a", "bitrate": 96000}, {"format": "ogg", "quality": 2}, {"format": "opus", "bitrate": 128000}]


def metered(path):
    """Integrated loudness and true peak of a file, as ffmpeg's ebur128 filter has them."""
    told = subprocess.run(["ffmpeg", "-nostdin", "-i", path, "-af", "ebur128=peak=true", "-f", "null", "-"],
                          capture_output=True, check=True, timeout=120).stderr.decode()
    return tuple(float(re.findall(pattern, told)[-1]) for pattern in (r"I:\s+(-?[\d.]+) LUFS",
                                                                      r"Peak:\s+(-?[\d.]+) dBFS"))


def dynamic(tmp_path):
    """Music with a short loud passage in it: to raise the rest means to pass full scale there."""
    path = tmp_path / "dynamic.flac"
    subprocess.run(["ffmpeg", "-v", "error", "-i", "-", "-af", "volume='if(between(t,4,4.2),1,0.15)':eval=frame",
                    "-sample_fmt", "s16", path], input=tracks.flac(), check=True, timeout=60)
    return path.read_bytes()


@pytest.mark.parametrize("params", TARGETS, ids=lambda p: p["format"])
@pytest.mark.parametrize("operation", ["convert", "mix"])
def test_a_loudness_target_is_neared_as_far_as_the_true_peak_allows(media, tmp_path, operation, params):
    data = dynamic(tmp_path)
    before, peak = metered(tmp_path / "dynamic.flac")
    target = round(before - peak) + 2  # so that without a limiter its peak would be at 2 dBTP
    if operation == "convert":
        media.run("convert", {**params, "targetLufs": target}, data)
    else:
        path = media.file("input", data)
        media.call("run", "mix", json.dumps({**params, "targetLufs": target, "tracks": [{}, {}]}),
                   media.folder / "out", path, path)
    loudness, peak = metered(media.folder / "out.0")
    assert peak <= -1.0, peak
    assert target - 1 <= loudness <= target + 0.3, (loudness, target)  # what is limited is missing


def test_what_is_turned_down_enough_is_not_limited(media, tmp_path):
    """Sample by sample it is the source, made quieter."""
    from harness import audio
    data = tracks.flac()
    media.run("convert", {"format": "flac", "bitDepth": 24, "targetLufs": -30}, data)
    rate = media.probe(data)["sampleRate"]
    before = audio.decode(data, rate, 2)
    after = audio.decode((media.folder / "out.0").read_bytes(), rate, 2)
    loud = [i for i, v in enumerate(before) if abs(v) > 8000]
    ratios = [after[i] / before[i] for i in loud]
    assert len(before) == len(after) and len(loud) > 1000
    assert max(ratios) - min(ratios) < 0.0005


def test_the_length_stays_what_it_was(media):
    for kind in ("wav", "flac"):
        result, data = media.convert({"format": kind, "targetLufs": -10}, tracks.flac())
        assert result["durationMs"] == media.probe(tracks.flac())["durationMs"]
