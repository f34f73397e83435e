"""Audio jobs beside the ffmpeg program, in turns; and what requests notice of busy workers.

Conversions go from S3 to S3 through the stack's own proxy, while ffmpeg reads and writes files.
"""

import http.client
import json
import os
import shutil
import statistics
import subprocess
import threading
import time
import urllib.request

import single
from measure import ratio, spread
from world import Refusal, descendants, procs

MINUTES, LONG_MINUTES = 4, 60
MIX_TRACKS = 8
# format: (parameters of the job, words of ffmpeg)
FORMATS = {
    "wav": ({}, ["-c:a", "pcm_s16le"]),
    "flac": ({}, ["-c:a", "flac"]),
    "mp3": ({"bitrate": 192000}, ["-c:a", "libmp3lame", "-b:a", "192k"]),
    "m4a": ({"bitrate": 192000}, ["-c:a", "aac", "-b:a", "192k"]),
    "ogg": ({"quality": 6}, ["-c:a", "libvorbis", "-q:a", "6"]),
    "opus": ({"bitrate": 192000}, ["-c:a", "libopus", "-b:a", "192k", "-ar", "48000"]),
}
LONG_FORMATS = ("wav", "flac", "mp3")
DAY_HOURS, CHILD_MIB_MAX = 8, 64
# What is asked of eight hours: those that are cheap, and with --long all.
DAY = {"wav": ("convert", {"format": "wav"}), "m4a": ("convert", {"format": "m4a"}),
       "zooms": ("waveform", {"zoom": [64, 128, 256]})}
DAY_LONG = {**{kind: ("convert", {"format": kind}) for kind in FORMATS},
            "mix": ("mix", {"format": "flac", "tracks": [{}, {"offsetMs": 1000}]}),
            "lufs": ("convert", {"format": "flac", "targetLufs": -14}), "analyse": ("analyse", {})}
CANCELS, CANCEL_MS_MAX, CHILD_WITHIN_S = 40, 200, 60
COMM_MAX = 15  # of a name that the kernel keeps
PROBES_PER_SECOND, PROBE_THREADS, PROBE_S = 100, 4, 12
BUSY_JOBS = 24


class Audio:
    """Two tracks as objects of a user, and the programs that work on them."""

    def __init__(self, world):
        self.world, self.rows = world, []
        self.folder = os.path.join(world.run, "audio")
        os.makedirs(self.folder, exist_ok=True)
        self.environment = {**os.environ, "CONFIG_FILE": world.place.path("stack.env")}
        self.files = {m: self._track(m) for m in (MINUTES, LONG_MINUTES)}
        self.objects = {m: self._upload(path) for m, path in self.files.items()}

    def done(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def _track(self, minutes):
        """The usual track, as often as the minutes need it."""
        usual, path = single.track(self.world.out), os.path.join(self.folder, f"{minutes}.mp3")
        single.run(["ffmpeg", "-v", "error", "-nostdin", "-y", "-stream_loop", "-1", "-i", usual,
                    "-t", str(minutes * 60), "-c", "copy", path])
        return path

    def _upload(self, path):
        grant = self.world.post("/api/audio/upload-url", {
            "fileName": "track.mp3", "contentType": "audio/mpeg",
            "size": os.path.getsize(path)}, self.world.tokens[0])
        with open(path, "rb") as f:
            request = urllib.request.Request(grant["url"], f.read(), grant["headers"],
                                             method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        self.world.post("/api/audio/complete-upload", {"key": grant["key"]}, self.world.tokens[0])
        return grant

    def _driver(self, *words):
        return [os.path.join(self.world.build, "bin/media-driver"), "--timeout-ms", "3000000",
                *words]

    def beside(self, name, text, ours, theirs, rounds, goal):
        """A row of wall time with the CPU time beside it; ours and theirs are commands."""
        single.timed(ours, self.environment), single.timed(theirs)
        pairs = [(single.timed(theirs), single.timed(ours, self.environment))
                 for _ in range(rounds)]
        mine, other = [o for _, o in pairs], [f for f, _ in pairs]
        for field, unit in (("wallS", "wall time"), ("cpuS", "CPU time")):
            self.rows.append((f"{name}-{field[:-1]}", f"{text}, {unit}, × ffmpeg", "×",
                              ratio(mine, other, field), goal,
                              statistics.median(s[field] for s in mine),
                              statistics.median(s[field] for s in other)))

    def waveform(self, minutes, rounds):
        path = self.files[minutes]
        self.beside(f"waveform-{minutes}", f"waveform of {minutes} minutes (ffmpeg -f null)",
                    self._driver("--discard", "run", "waveform", "{}", "out", path),
                    ["ffmpeg", "-v", "error", "-nostdin", "-i", path, "-f", "null", "-"], rounds,
                    1.10)

    def analyse(self, rounds):
        path = self.files[MINUTES]
        self.beside("analyse", "analysis and first waveform of 4 minutes (ffmpeg ebur128 alone)",
                    self._driver("--discard", "run", "analyse", "{}", "out", path),
                    ["ffmpeg", "-v", "error", "-nostdin", "-i", path, "-af", "ebur128=peak=true",
                     "-f", "null", "-"], rounds, None)

    def convert(self, minutes, kind, rounds):
        params, words = FORMATS[kind]
        path = self.files[minutes]
        self.beside(f"convert-{kind}-{minutes}", f"{minutes} minutes of MP3 to {kind}, S3 to S3",
                    self._driver("--s3", "run", "convert", json.dumps({"format": kind, **params}),
                                 "temp/bench/out", self.objects[minutes]["key"]),
                    ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", path, *words,
                     os.path.join(self.folder, f"out.{kind}")], rounds, 1.10)

    def mix(self, rounds):
        path, out = self.files[MINUTES], os.path.join(self.folder, "mix")
        inputs = [word for _ in range(MIX_TRACKS) for word in ("-i", path)]
        self.beside("mix", f"mix of {MIX_TRACKS} MP3s to WAV (ffmpeg amix)",
                    self._driver("run", "mix", json.dumps(
                        {"format": "wav", "tracks": [{"gainDb": -18}] * MIX_TRACKS}), out,
                        *[path] * MIX_TRACKS),
                    ["ffmpeg", "-v", "error", "-nostdin", "-y", *inputs, "-filter_complex",
                     f"amix=inputs={MIX_TRACKS}", "-c:a", "pcm_s16le", out + ".wav"], rounds, 1.15)

    # ---- memory ----

    def memory(self, what):
        """The most that a child has resident, its share of the parent's blocks included, over
        eight hours of silence, of which nothing can be skipped."""
        path = os.path.join(self.folder, "day.flac")
        single.run(["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-t",
                    str(DAY_HOURS * 3600), "-i", "anullsrc=r=44100:cl=stereo", "-sample_fmt", "s16",
                    "-compression_level", "0", path])
        for name, (operation, params) in what.items():
            program = subprocess.Popen(
                self._driver("--discard", "run", operation, json.dumps(params), "out",
                             *[path] * len(params.get("tracks", [{}]))),
                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(program.pid, 0)  # of it and of its children the larger
            program.returncode = os.waitstatus_to_exitcode(status)
            if program.returncode != 0:
                raise Refusal(f"{operation} of eight hours failed")
            self.rows.append((f"memory-{name}", f"peak memory of a child, 8 hours: {operation} "
                              f"{json.dumps(params)}", "MiB", spread([used.ru_maxrss / 1024]),
                              CHILD_MIB_MAX, None, None))

    # ---- cancelling ----

    def _media(self):
        """Pids of the stack's media children."""
        workers = [p.pid for p in procs.of_stack(self.world.place.root)
                   if procs.command(p.pid) == "maxbooster-worker"[:COMM_MAX]]
        return {pid for worker in workers for pid in descendants(worker)
                if procs.command(pid) == "maxbooster-media"[:COMM_MAX]}

    def _end_jobs(self):
        """Nothing runs afterwards: neither a job of a test before nor an analysis."""
        token = self.world.tokens[0]
        _, _, body = self.world.get("/api/jobs?limit=100", token)
        for job in json.loads(body)["items"]:
            if job["status"] in ("queued", "processing"):
                self.world.delete(f"/api/jobs/{job['jobId']}", token)
        self._until(lambda: not self._media(), "the workers to be idle")

    @staticmethod
    def _until(holds, what):
        deadline = time.monotonic() + CHILD_WITHIN_S
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise Refusal(f"Waited {CHILD_WITHIN_S} s for {what}.")
            time.sleep(0.002)
        return found

    def cancel(self):
        """From the request that cancels to the end of the child."""
        token, waits = self.world.tokens[0], []
        self._end_jobs()
        for i in range(CANCELS):
            job = self.world.post("/api/audio/convert", {
                "fileId": self.objects[LONG_MINUTES]["fileId"], "format": "wav" if i % 2 else "opus"},
                token)["jobId"]
            child = self._until(self._media, "a child").pop()
            time.sleep(0.1 + 0.01 * i)  # at any time of its work
            began = time.monotonic()
            self.world.delete(f"/api/jobs/{job}", token)
            self._until(lambda child=child: not os.path.exists(f"/proc/{child}"), "its end")
            waits.append((time.monotonic() - began) * 1000)
        waits.sort()
        p99 = waits[int(len(waits) * 0.99)]
        self.rows.append(("audio-cancel", "cancelling a running job, until its child has ended, p99",
                          "ms", {"median": p99, "low": waits[0], "high": waits[-1]}, CANCEL_MS_MAX,
                          statistics.median(waits), None))

    # ---- requests beside busy workers ----

    def _probe(self, thread, waits):
        """Requests at fixed times; each wait counts from when it was due."""
        connection = http.client.HTTPConnection("127.0.0.1", self.world.base, timeout=10)
        step, begin = PROBE_THREADS / PROBES_PER_SECOND, time.monotonic()
        for i in range(int(PROBE_S / step)):
            due = begin + i * step + thread * step / PROBE_THREADS
            time.sleep(max(0, due - time.monotonic()))
            connection.request("GET", "/api/auth/me", headers={
                "Authorization": f"Bearer {self.world.tokens[thread]}"})
            reply = connection.getresponse()
            reply.read()
            if reply.status == 200:
                waits.append((time.monotonic() - due) * 1000)
        connection.close()

    def _p99_ms(self):
        waits = []
        threads = [threading.Thread(target=self._probe, args=(i, waits))
                   for i in range(PROBE_THREADS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return sorted(waits)[int(len(waits) * 0.99)]

    def _busy(self):
        """Jobs for longer than a probe takes; returns how to end them."""
        token = self.world.tokens[0]
        jobs = [self.world.post("/api/audio/convert", {
            "fileId": self.objects[MINUTES]["fileId"], "format": "opus", "bitrate": 192000 + i},
            token)["jobId"] for i in range(BUSY_JOBS)]
        time.sleep(1)
        return lambda: [self.world.delete(f"/api/jobs/{job}", token) for job in jobs]

    def requests_beside_workers(self, rounds):
        ratios, alone, beside = [], [], []
        for _ in range(rounds):
            alone.append(self._p99_ms())
            end = self._busy()
            beside.append(self._p99_ms())
            end()
            ratios.append(beside[-1] / alone[-1])
            time.sleep(2)
        self.rows.append(("p99-busy", "GET /api/auth/me at 100/s, p99, workers saturated × idle",
                          "×", spread(ratios), 1.5, statistics.median(beside),
                          statistics.median(alone)))


def run(world, rounds, is_long):
    """Rows: (name, text, unit, {median, low, high}, goal at most, ours, peer's)."""
    audio = Audio(world)
    try:
        audio.waveform(MINUTES, rounds + 2)
        audio.waveform(LONG_MINUTES, 1)
        audio.analyse(rounds)
        for kind in FORMATS:
            audio.convert(MINUTES, kind, rounds)
        for kind in FORMATS if is_long else LONG_FORMATS:
            audio.convert(LONG_MINUTES, kind, 1)
        audio.mix(rounds)
        audio.memory({**DAY, **DAY_LONG} if is_long else DAY)
        audio.cancel()
        audio.requests_beside_workers(rounds)
    finally:
        audio.done()
    return audio.rows
