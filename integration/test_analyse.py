"""The analysis of each upload: figures against ffmpeg, its hash, and its place in a file's life."""
import hashlib
import math
import re
import subprocess

import pytest

from harness import audio, tracks
from harness.waits import wait_until


def analysis_jobs(stack, user, file_id):
    """Rows of the jobs that analyse a file."""
    return stack.sql(stack.shard_of(user.id), "SELECT id::text, status, attempts FROM jobs WHERE "
                     "type = 'audio-analyse' AND payload->>'fileId' = %s", file_id)


def made(name, *words):
    """A file that ffmpeg makes."""
    return tracks._kept(name, tracks._ffmpeg(*words))  # pylint: disable=protected-access


def ebur128(data, path):
    """Integrated loudness, range and true peak (the loudest channel's) by ffmpeg's filter."""
    path.write_bytes(data)
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-map", "0:a:0", "-af",
         "ebur128=metadata=1:peak=true,ametadata=print:file=-", "-f", "null", "-"],
        capture_output=True, text=True, timeout=120, check=True).stdout
    last = dict(re.findall(r"^lavfi\.r128\.(\S+)=(\S+)$", done, re.M))
    peak = max(float(v) for k, v in last.items() if k.startswith("true_peaks_ch"))
    return {"integratedLufs": float(last["I"]), "loudnessRangeLu": float(last["LRA"]),
            "truePeakDbtp": 20 * math.log10(peak)}


def loud_tone():
    """Two seconds of nothing, ten of a tone cut at full scale, one of nothing."""
    return made("tone.wav", "-f", "lavfi", "-i",
                "aevalsrc='if(between(t,2,12),clip(1.5*sin(2*PI*997*t),-1,1),0)|0':s=48000:d=13",
                "-c:a", "pcm_s16le")


def quiet_tone():
    """Stereo 997 Hz at -20 dBFS: -20 LUFS by definition."""
    return made("sine.flac", "-f", "lavfi", "-i",
                "aevalsrc='0.1*sin(2*PI*997*t)|0.1*sin(2*PI*997*t)':s=48000:d=10", "-sample_fmt",
                "s32", "-bits_per_raw_sample", "24")


def short_silence():
    """Three seconds of nothing."""
    return made("silence-3s.wav", "-f", "lavfi", "-i", "anullsrc=r=44100:cl=stereo", "-t", "3",
                "-c:a", "pcm_s16le")


@pytest.mark.parametrize("name,make,facts", [
    ("music.mp3", tracks.music, {"codec": "mp3", "channels": 2, "bitDepth": None}),
    ("music.wav", lambda: tracks.wav(30), {"codec": "pcm_s16le", "sampleRate": 44100,
                                           "bitDepth": 16}),
    ("speech.wav", tracks.speech, {"codec": "pcm_s16le", "channels": 1}),
    ("8bit.wav", tracks.eight_bit_mono, {"codec": "pcm_u8", "sampleRate": 8000, "bitDepth": 8}),
    ("24bit.flac", tracks.deep_flac, {"codec": "flac", "sampleRate": 96000, "bitDepth": 24}),
    ("51.flac", tracks.six_channels, {"codec": "flac", "channels": 6}),
    ("tone.wav", loud_tone, {"channels": 2}),
    ("sine.flac", quiet_tone, {"bitDepth": 24}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_an_upload_is_analysed_as_ffmpeg_measures_it(user, tmp_path, name, make, facts):
    data = make()
    file = audio.analysed(user.client, audio.upload(user.client, name, data)["id"])
    told = file["analysis"]
    for figure, value in ebur128(data, tmp_path / name).items():
        assert abs(told[figure] - value) <= 0.1, (figure, told, value)
    assert {k: told[k] for k in facts} == facts
    assert file["sha256"] == hashlib.sha256(data).hexdigest()
    samples = len(audio.decode(data, told["sampleRate"], 1))
    assert abs(told["durationMs"] - samples * 1000 / told["sampleRate"]) <= 60


def test_the_tempo_of_music_is_told_and_of_a_tone_is_not(user):
    music = audio.upload(user.client, "music.mp3", tracks.music())["id"]
    tone = audio.upload(user.client, "sine.flac", quiet_tone())["id"]
    assert abs(audio.analysed(user.client, music)["analysis"]["tempoBpm"] - 120) < 3
    assert audio.analysed(user.client, tone)["analysis"]["tempoBpm"] is None


def test_silence_and_clipping_are_counted(user):
    file = audio.upload(user.client, "tone.wav", loud_tone())
    told = audio.analysed(user.client, file["id"])["analysis"]
    assert abs(told["leadingSilenceMs"] - 2000) <= 1
    assert abs(told["trailingSilenceMs"] - 1000) <= 1
    # A sine cut at two thirds of its height stands at full scale for 53.5 % of its time.
    assert abs(told["clippedSamples"] / 480000 - 0.535) < 0.005
    assert abs(told["clippedRatio"] - told["clippedSamples"] / (2 * 13 * 48000)) < 1e-6


def test_silence_has_no_loudness(user):
    file = audio.analysed(user.client, audio.upload(user.client, "a.wav", short_silence())["id"])
    told = file["analysis"]
    assert [told[k] for k in ("integratedLufs", "loudnessRangeLu", "truePeakDbtp", "tempoBpm")] \
        == [None] * 4
    assert told["leadingSilenceMs"] == told["trailingSilenceMs"] == told["durationMs"] == 3000


def test_one_upload_is_analysed_once_and_completing_tells_the_same(stack, user):
    grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
    first = audio.complete(user.client, grant["key"], expect=201)
    file = audio.analysed(user.client, grant["fileId"])
    again = audio.complete(user.client, grant["key"], expect=201)
    assert again.json == first.json and first.json["analysis"] is None
    assert analysis_jobs(stack, user, grant["fileId"])[0][1:] == ("completed", 1)
    assert len(analysis_jobs(stack, user, grant["fileId"])) == 1
    assert file["updatedAt"] == first.json["updatedAt"]


def test_the_analysis_leaves_the_version_that_its_owner_holds(user):
    grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
    first = audio.complete(user.client, grant["key"], expect=201)
    audio.analysed(user.client, grant["fileId"])
    path = f"/api/audio/{grant['fileId']}"
    renamed = user.client.patch(path, {"fileName": "b.mp3"}, expect=200,
                                headers={"If-Match": first.headers["ETag"]})
    assert renamed.json["fileName"] == "b.mp3" and renamed.json["analysis"]
    user.client.patch(path, {"fileName": "c.mp3"}, expect=412,
                      headers={"If-Match": first.headers["ETag"]})


def waveform(client, file_id, **params):
    """The result of a waveform job."""
    taken = client.post("/api/audio/waveform", {"fileId": file_id, **params}, expect=202).json
    return audio.wait_job(client, taken["jobId"])["result"]


def test_the_first_waveform_comes_from_the_decode_of_the_analysis(stack, user):
    file = audio.analysed(user.client, audio.upload(user.client, "a.wav", tracks.wav())["id"])
    (analysis, _, _), = analysis_jobs(stack, user, file["id"])
    usual = waveform(user.client, file["id"])
    assert all(f"/{analysis}-" in f["key"] for f in usual["files"])
    other = waveform(user.client, file["id"], width=1801)
    assert not any(f"/{analysis}-" in f["key"] for f in other["files"])
    for made, again in zip(usual["files"][:2], other["files"][:2]):
        data = audio.download(made["url"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (made["size"], made["sha256"])
        assert {**made, "key": 0, "url": 0} == {**again, "key": 0, "url": 0}
    assert usual["durationMs"] == other["durationMs"] == file["durationMs"]


@pytest.mark.parametrize("params", [{"bits": 8}, {"perChannel": True}, {"version": 2}, {"zoom": [256, 512]},
                                    {"height": 100}, {"colors": {"waveform": "#102030"}}])
def test_any_other_waveform_is_made_as_it_was_asked_for(stack, user, params):
    file = audio.analysed(user.client, audio.upload(user.client, "a.mp3", tracks.short_mp3())["id"])
    (analysis, _, _), = analysis_jobs(stack, user, file["id"])
    assert not any(f"/{analysis}-" in f["key"] for f in waveform(user.client, file["id"], **params)["files"])


def test_its_job_is_among_the_owners(stack, user):
    file = audio.analysed(user.client, audio.upload(user.client, "a.mp3", tracks.short_mp3())["id"])
    (job_id, _, _), = analysis_jobs(stack, user, file["id"])
    job = audio.wait_job(user.client, job_id)
    assert job["type"] == "audio-analyse"
    assert job["result"] == {"fileId": file["id"], "sha256": file["sha256"],
                             "analysis": file["analysis"]}


def test_what_is_rejected_is_not_analysed(stack, user):
    grant = audio.store(user.client, "a.mp3", tracks.text())
    audio.complete(user.client, grant["key"], expect=(415, 422))
    assert analysis_jobs(stack, user, grant["fileId"]) == []


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("private")
def test_a_file_whose_bytes_vanish_fails_its_analysis_and_nothing_else(private):
    user = private.user()
    with private.frozen("worker"):
        file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
        private.s3().delete_object(Bucket=private.env["S3_BUCKET"], Key=file["key"])
    (job_id, _, _), = analysis_jobs(private, user, file["id"])
    job = audio.wait_job(user.client, job_id, wanted=("failed",))
    assert job["error"]["code"] == "not_found"
    told = user.client.get(f"/api/audio/{file['id']}", expect=200).json
    assert (told["status"], told["analysis"], told["sha256"]) == ("verified", None, None)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("private")
def test_a_killed_worker_leaves_one_analysis(private):
    user = private.user()
    data = tracks.quarter_of_silence()
    file = audio.upload(user.client, "silence.flac", data)
    (job_id, _, _), = analysis_jobs(private, user, file["id"])
    wait_until(lambda: user.client.get(f"/api/jobs/{job_id}").json["progress"] > 0, 30,
               "the analysis to be under way", every=0.02)
    private.kill_workers()
    done = audio.analysed(user.client, file["id"], 240)  # twice, at low priority
    assert done["sha256"] == hashlib.sha256(data).hexdigest()
    assert done["analysis"]["leadingSilenceMs"] == 900000
    assert [row[1:] for row in analysis_jobs(private, user, file["id"])] == [("completed", 1)]
