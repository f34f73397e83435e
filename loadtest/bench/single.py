"""Benchmarks without load: presigning, guards; and what audio.py needs: a track, and the times of a program."""

import json
import os
import resource
import subprocess
import time

from measure import spread
from world import Refusal

MUSIC = "/usr/share/games/asc/music/machine_wars.mp3"
TRACK_SECONDS = 240


def presign(world, rounds):
    """URLs per CPU second of one thread, each round."""
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [os.path.join(world.build, "bin/bench-presign"), "2"],
            env={**os.environ, "CONFIG_FILE": world.place.path("stack.env")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refusal(f"bench-presign failed: {done.stderr}")
        found.append(json.loads(done.stdout)["urlsPerCpuSecond"])
    return spread(found)


def guards(world, rounds):
    """CPU time of the guards of one request in microseconds, each round: (above the bare way, all)."""
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [os.path.join(world.build, "bin/bench-guards"), world.tokens[0], "3"],
            env={**os.environ, "CONFIG_FILE": world.place.path("stack.env")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refusal(f"bench-guards failed: {done.stderr}")
        found.append(json.loads(done.stdout)["guardsUs"])
    return spread(found)


def track(out):
    """Four minutes of MP3: real music (Debian's asc-music) where it is installed, else tones."""
    path = os.path.join(out, "track.mp3")
    source = ["-stream_loop", "-1", "-i", MUSIC]
    if not os.path.exists(MUSIC):
        source = ["-f", "lavfi", "-i",
                  "aevalsrc='0.3*sin(2*PI*(220+40*sin(t))*t)+0.2*(random(0)-0.5)"
                  "|0.3*sin(2*PI*330*t)+0.2*(random(1)-0.5)':s=44100"]
    if not os.path.exists(path):
        done = subprocess.run(
            ["ffmpeg", "-v", "error", "-nostdin", "-y", *source, "-t", str(TRACK_SECONDS),
             "-vn", "-map_metadata", "-1", "-ar", "44100", "-ac", "2", "-c:a", "libmp3lame",
             "-b:a", "192k", path + ".new.mp3"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refusal(f"ffmpeg could not make the track: {done.stderr}")
        os.replace(path + ".new.mp3", path)
    return path


def run(argv, environment=None):
    """Run a program that must succeed."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, env=environment)
    if done.returncode != 0:
        raise Refusal(f"{argv[0]} failed: {done.stdout}{done.stderr}")


def timed(argv, environment=None):
    """Wall and CPU seconds of a program and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run(argv, environment)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wallS": wall,
            "cpuS": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
