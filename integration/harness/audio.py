"""Audio files of a user: uploading, and what independent tools say of them."""
import array
import hashlib
import json
import struct
import subprocess
import tempfile

import requests

from .waits import wait_until

CONTENT_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac"}
JOB_S = 90


def content_type_of(name):
    """The content type of a file name."""
    return CONTENT_TYPES[name.rsplit(".", 1)[-1].lower()]


def begin_upload(client, name, data, **options):
    """The reply of upload-url."""
    options.setdefault("expect", 201)
    return client.post("/api/audio/upload-url", {
        "fileName": name, "contentType": content_type_of(name), "size": len(data)}, **options)


def put(grant, data, headers=None):
    """PUT bytes where a grant of upload-url says; the reply of S3."""
    return requests.put(grant["url"], data=data, timeout=60,
                        headers=grant["headers"] if headers is None else headers)


def store(client, name, data):
    """upload-url and PUT; the grant."""
    grant = begin_upload(client, name, data).json
    stored = put(grant, data)
    assert stored.status_code == 200, stored.text
    return grant


def complete(client, key, **options):
    """The reply of complete-upload."""
    return client.post("/api/audio/complete-upload", {"key": key}, **options)


def upload(client, name, data):
    """A verified audio file."""
    grant = store(client, name, data)
    return complete(client, grant["key"], expect=201).json


def analysed(client, file_id, seconds=JOB_S):
    """The file once its analysis is there."""
    def is_there():
        file = client.get(f"/api/audio/{file_id}", expect=200).json
        return file if file["analysis"] else None
    return wait_until(is_there, seconds, f"the analysis of {file_id}", every=0.1)


def wait_job(client, job_id, seconds=JOB_S, wanted=("completed",)):
    """The job once it has ended as wanted."""
    def ended():
        job = client.get(f"/api/jobs/{job_id}", expect=200).json
        return job if job["status"] in ("completed", "failed", "cancelled") else None
    job = wait_until(ended, seconds, f"the end of job {job_id}", every=0.1)
    assert job["status"] in wanted, json.dumps(job)
    return job


def end_jobs(client):
    """Cancel all of a user's jobs that have not ended, so that they keep no worker from others."""
    for job in client.get("/api/jobs?limit=100", expect=200).json["items"]:
        if job["status"] in ("queued", "processing"):
            client.delete(f"/api/jobs/{job['jobId']}", expect=(204, 409))


def download(url, headers=None):
    """The bytes behind a presigned URL."""
    reply = requests.get(url, timeout=60, headers=headers or {})
    assert reply.status_code in (200, 206), f"{reply.status_code} {reply.text[:300]}"
    return reply.content


def sha256(data):
    """Its SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _told_by(program, data, *words):
    """Standard output of a tool that reads the data from a file, where it can seek."""
    with tempfile.NamedTemporaryFile(prefix="mb-audio-") as file:
        file.write(data)
        file.flush()
        words = [file.name if word == "FILE" else word for word in words]
        return subprocess.run([program, "-v", "error", *words], capture_output=True, timeout=120,
                              stdin=subprocess.DEVNULL, check=True).stdout


def ffprobe(data):
    """What ffprobe says of the first audio stream and of the container."""
    told = json.loads(_told_by("ffprobe", data, "-show_streams", "-show_format", "-of", "json",
                               "FILE"))
    stream = next(s for s in told["streams"] if s["codec_type"] == "audio")
    return stream, told["format"]


def stream_kinds(data):
    """The kinds of all streams, sorted."""
    told = json.loads(_told_by("ffprobe", data, "-show_streams", "-of", "json", "FILE"))
    return sorted(s["codec_type"] for s in told["streams"])


def decode(data, rate, channels):
    """16-bit samples, interleaved, decoded by ffmpeg."""
    raw = _told_by("ffmpeg", data, "-i", "FILE", "-map", "0:a:0", "-f", "s16le", "-ar", str(rate),
                   "-ac", str(channels), "-")
    samples = array.array("h")
    samples.frombytes(raw[:len(raw) // 2 * 2])
    return samples


def mono(samples, channels):
    """Channels averaged, each sum cut towards zero as audiowaveform does."""
    if channels == 1:
        return samples
    sums = [sum(samples[i:i + channels]) for i in range(0, len(samples), channels)]
    return array.array("h", (int(s / channels) for s in sums))


def peaks(samples, samples_per_pixel):
    """[min, max, min, max, …] of each pixel of mono samples."""
    out = []
    for start in range(0, len(samples), samples_per_pixel):
        part = samples[start:start + samples_per_pixel]
        out += [min(part), max(part)]
    return out


def parse_dat(data):
    """audiowaveform's binary format, versions 1 and 2: header fields and the points."""
    version, flags, rate, per_pixel, length = struct.unpack_from("<iIiiI", data)
    offset, channels = 20, 1
    if version == 2:
        (channels,) = struct.unpack_from("<i", data, 20)
        offset = 24
    bits = 8 if flags & 1 else 16
    points = array.array("b" if bits == 8 else "h")
    points.frombytes(data[offset:])
    return {"version": version, "bits": bits, "sampleRate": rate, "samplesPerPixel": per_pixel,
            "length": length, "channels": channels, "points": points}


def max_difference(one, other):
    """The largest difference of two lists of the same length."""
    assert len(one) == len(other), (len(one), len(other))
    return max((abs(a - b) for a, b in zip(one, other)), default=0)
