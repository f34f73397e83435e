"""Audio to test with: real music from a Debian package, speech, odd files; in build/material."""
import functools
import io
import os
import pathlib
import subprocess
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build/material"
# One of three pieces in the Debian package asc-music.
STEREO = "pan=stereo|c0=c0|c1=c0,adelay=0|7"  # the right channel comes a little later
MUSIC = pathlib.Path("/usr/share/games/asc/music/machine_wars.mp3")


@functools.lru_cache(maxsize=8)
def music():
    """A real piece of music: MP3, stereo, 22,050 Hz, 290 seconds."""
    assert MUSIC.exists(), "music is missing: apt-get install asc-music"
    return MUSIC.read_bytes()


def _kept(name, make):
    """The bytes of a file that make(path) writes, made once on this machine."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            fresh = pathlib.Path(folder) / name
            make(fresh)
            os.replace(fresh, path)
    return path.read_bytes()


def _ffmpeg(*words):
    def make(path):
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *words, str(path)], check=True,
                       timeout=120)
    return make


def wav(seconds=10):
    """The beginning of the music as 16-bit stereo WAV."""
    return _kept(f"music-{seconds}s.wav", _ffmpeg("-t", str(seconds), "-i", str(MUSIC), "-af",
                                                  STEREO, "-ar", "44100", "-bitexact",
                                                  "-map_metadata", "-1", "-c:a", "pcm_s16le"))


def flac(seconds=10):
    """The same as FLAC."""
    return _kept(f"music-{seconds}s.flac", _ffmpeg("-t", str(seconds), "-i", str(MUSIC), "-af",
                                                   STEREO, "-sample_fmt", "s16"))


def short_mp3():
    """Five seconds of the music."""
    return _kept("music-5s.mp3", _ffmpeg("-t", "5", "-i", str(MUSIC), "-c:a", "libmp3lame", "-b:a",
                                         "128k"))


def speech():
    """Somebody talking: WAV, mono, 22,050 Hz."""
    def make(path):
        subprocess.run(["espeak-ng", "-w", str(path),
                        "The quick brown fox plays bass on Friday nights."],
                       check=True, timeout=60)
    return _kept("speech.wav", make)


def eight_bit_mono():
    """8-bit unsigned WAV, mono, 8 kHz."""
    return _kept("8bit.wav", _ffmpeg("-t", "4", "-i", str(MUSIC), "-ac", "1", "-ar", "8000", "-c:a",
                                     "pcm_u8"))


def deep_wav():
    """24-bit WAV, 96 kHz."""
    return _kept("24bit.wav", _ffmpeg("-t", "4", "-i", str(MUSIC), "-ar", "96000", "-c:a",
                                      "pcm_s24le"))


def deep_flac():
    """24-bit FLAC, 96 kHz."""
    return _kept("24bit.flac", _ffmpeg("-t", "4", "-i", str(MUSIC), "-ar", "96000", "-sample_fmt",
                                       "s32",
                                       "-bits_per_raw_sample", "24"))


def six_channels():
    """5.1 FLAC."""
    return _kept("51.flac", _ffmpeg("-t", "4", "-i", str(MUSIC), "-ac", "6", "-sample_fmt", "s16"))


def with_cover():
    """MP3 with a picture inside."""
    return _kept("cover.mp3", _ffmpeg(
        "-t", "4", "-i", str(MUSIC), "-f", "lavfi", "-i",
        "testsrc=size=600x600:duration=0.04:rate=25",
        "-map", "0:a", "-map", "1:v", "-c:a", "libmp3lame", "-c:v", "png", "-frames:v", "1",
        "-id3v2_version", "3", "-disposition:v", "attached_pic"))


def hour_of_silence():
    """3,600 s of nothing as FLAC."""
    return _silence("silence.flac", 3600)


def quarter_of_silence():
    """900 s of it: seconds of work for an analysis, where an hour is half a minute."""
    return _silence("silence-900s.flac", 900)


def _silence(name, seconds):
    return _kept(name, _ffmpeg("-f", "lavfi", "-t", str(seconds), "-i",
                               "anullsrc=r=44100:cl=stereo", "-sample_fmt", "s16"))


def truncated():
    """An MP3 that ends in the middle of a frame."""
    return short_mp3()[:41233]


def truncated_wav():
    """A WAV whose header promises more than there is."""
    return wav(5)[:300001]


def zip_archive():
    """A ZIP, whatever its name says."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("song.mp3", short_mp3()[:20000])
    return out.getvalue()


def text():
    """Words."""
    return b"This is not a song. " * 500


def noise():
    """Random bytes, the same each time."""
    import random
    return random.Random(7).randbytes(50000)


def picture():
    """A PNG."""
    return _kept("picture.png", _ffmpeg("-f", "lavfi", "-i",
                                        "testsrc=size=64x64:duration=0.04:rate=25",
                                        "-frames:v", "1"))


def ogg_named_mp3():
    """Real audio of a type that is not the announced one."""
    return _kept("vorbis.ogg", _ffmpeg("-t", "4", "-i", str(MUSIC), "-c:a", "libvorbis"))


def big_wav():
    """A WAV of more than one part of a multipart upload: about 9.2 MB."""
    return wav(52)
