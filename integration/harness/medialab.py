"""The media child by itself: its driver on local files, with no stack around it."""
import glob
import hashlib
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("MEDIA_BIN", ROOT / "build/bin"))
FORMATS = ["mp3", "wav", "flac", "aac", "m4a", "ogg", "opus"]


def build():
    """The programs are built."""
    if "MEDIA_BIN" not in os.environ:
        subprocess.run(["make", "-s", "build/bin/media-driver", "build/bin/maxbooster-media"],
                       cwd=ROOT, check=True, timeout=600)


class Media:
    """Runs the driver in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def file(self, name, data):
        """A file of these bytes."""
        path = self.folder / name
        path.write_bytes(data)
        return path

    def call(self, *words, ok=True, env=None, wrap=()):
        """The driver's JSON; ok None: whatever it says."""
        done = subprocess.run([*wrap, str(BIN / "media-driver"), *map(str, words)], capture_output=True,
                              timeout=300, env={"PATH": "/usr/bin:/bin", **(env or {})}, check=False)
        assert done.returncode in ((0, 1) if ok is None else (0,) if ok else (1,)), (
            done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout.splitlines()[0])

    def probe(self, data, ok=True):
        """What it says of these bytes."""
        return self.call("probe", self.file("input", data), ok=ok)

    def run(self, operation, params, data, ok=True, options=(), **more):
        """Result and outputs of an operation."""
        for old in glob.glob(str(self.folder / "out.*")):
            os.unlink(old)
        result = self.call(*options, "run", operation, json.dumps(params), self.folder / "out",
                           self.file("input", data), ok=ok, **more)
        found = {int(p.rsplit(".", 1)[1]): pathlib.Path(p).read_bytes()
                 for p in glob.glob(str(self.folder / "out.*"))}
        return result, found

    def convert(self, params, data):
        """Result and bytes of a conversion whose figures are checked."""
        result, files = self.run("convert", params, data)
        assert result["size"] == len(files[0])
        assert result["sha256"] == hashlib.sha256(files[0]).hexdigest()
        return result, files[0]
