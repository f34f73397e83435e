"""The media child between a real S3 server's objects: ranges in, parts out, as a worker runs it."""
import hashlib
import json
import os
import re
import subprocess

import pytest

from harness import audio, s3lab, tracks
from harness.medialab import BIN

pytestmark = [pytest.mark.xdist_group("s3lab"), pytest.mark.usefixtures("media_programs")]

PART = 5242880
BUCKET = s3lab.BUCKET


@pytest.fixture(scope="module")
def bucket(gateway):
    """It, as boto3 sees it."""
    return gateway.client()


def run(gateway, operation, params, key, ok=True, options=(), wrap=()):
    """The driver's JSON."""
    done = subprocess.run(
        [*wrap, BIN / "media-driver", *options, "--s3", "run", operation, json.dumps(params), "out", key],
        capture_output=True, timeout=120, check=False,
        env={"S3_ENDPOINT": gateway.url, "AWS_ACCESS_KEY_ID": s3lab.ACCESS_KEY, "S3_BUCKET": BUCKET,
             "AWS_SECRET_ACCESS_KEY": s3lab.SECRET_KEY, "MULTIPART_PART_BYTES": str(PART)})
    assert done.returncode == (0 if ok else 1), (done.stdout, done.stderr)
    return json.loads(done.stdout)


def stored(bucket, key):
    """The bytes of an object."""
    return bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def uploads(bucket):
    """Multipart uploads that are open."""
    return bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


@pytest.fixture(scope="module")
def long_file(bucket):
    """The whole music, five minutes, as an object."""
    bucket.put_object(Bucket=BUCKET, Key="music.mp3", Body=tracks.music())
    return "music.mp3"


def test_a_conversion_of_several_parts_is_stored_and_hashed_right(gateway, bucket, long_file):
    result = run(gateway, "convert", {"format": "wav"}, long_file)
    data = stored(bucket, "out.0")
    assert len(data) == result["size"] > 4 * PART
    assert hashlib.sha256(data).hexdigest() == result["sha256"]
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert not uploads(bucket)


def test_a_length_that_the_header_promised_wrongly_is_corrected(gateway, bucket):
    """The sizes of a WAV are written in advance; this MP3 is cut off and has fewer samples."""
    bucket.put_object(Bucket=BUCKET, Key="cut.mp3", Body=tracks.music()[:len(tracks.music()) * 99 // 100])
    result = run(gateway, "convert", {"format": "wav"}, "cut.mp3")
    data = stored(bucket, "out.0")
    assert len(data) == result["size"] > 4 * PART
    assert hashlib.sha256(data).hexdigest() == result["sha256"]
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


def test_a_small_result_is_one_object(gateway, bucket, long_file):
    result = run(gateway, "waveform", {"zoom": [256]}, long_file)
    for made in result["files"]:
        data = stored(bucket, f"out.{made['output']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (made["size"], made["sha256"])
    assert audio.parse_dat(stored(bucket, "out.0"))["length"] == json.loads(stored(bucket, "out.1"))["length"]


@pytest.mark.parametrize("operation,params", [
    ("convert", {"format": "wav"}), ("convert", {"format": "m4a", "targetLufs": -14}), ("waveform", {"zoom": [64, 256]}),
    ("analyse", {}), ("mix", {"format": "flac", "tracks": [{}]})])
def test_no_file_is_written_from_s3_to_s3(gateway, long_file, tmp_path, operation, params):
    """By parent and child together, whatever the job, though the results have several parts."""
    trace = tmp_path / "trace"
    run(gateway, operation, params, long_file,
        wrap=["strace", "-f", "-qq", "-e", "trace=%file,write,pwrite64,writev", "-y", "-o", trace])
    lines = trace.read_text(errors="replace").splitlines()
    opened = [line for line in lines if re.search(r"\b(open|openat|openat2|creat)\(", line)]
    assert len(opened) > 5
    writing = [line for line in opened if re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(", line)]
    assert {re.search(r'"([^"]*)"', line).group(1) for line in writing} <= {"/dev/null"}, writing
    written = [line for line in lines if re.search(r"\bp?writev?(64)?\(\d+<(?!pipe:|socket:|TCP|UNIX)", line)]
    assert not [line for line in written if "anon_inode" not in line], written
    assert not [line for line in lines if re.search(r"\b(rename|mkdir|link|symlink|unlink|truncate)\w*\(", line)]


def test_what_is_cancelled_leaves_no_upload_behind(gateway, bucket):
    bucket.put_object(Bucket=BUCKET, Key="silence.flac", Body=tracks.hour_of_silence())
    told = run(gateway, "convert", {"format": "wav"}, "silence.flac", ok=False, options=["--cancel-ms", "700"])
    assert told["error"] == "conflict"
    assert not uploads(bucket)


def test_a_source_that_is_not_there_is_told(gateway):
    assert run(gateway, "convert", {"format": "wav"}, "nowhere", ok=False)["error"] == "not_found"
