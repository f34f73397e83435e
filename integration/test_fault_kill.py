"""kill -9 of each process during the main job: nothing promised is lost, nobody is logged out."""
import pytest
import requests

from harness import audio, tracks
from harness.stack import wait_steady
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("private")]

VICTIMS = {
    "one API process": lambda stack: stack.kill_api_process(),
    "the keeper of the API processes": lambda stack: stack.kill_main("api"),
    "the workers": lambda stack: stack.kill_workers(),
    "the schedulers": lambda stack: stack.kill_schedulers(),
    "Redis": lambda stack: stack.kill_main("redis"),
    "PostgreSQL": lambda stack: stack.kill_main("postgres"),
    "S3": lambda stack: stack.kill_main("s3"),
    "the proxy": lambda stack: stack.kill_main("nginx"),
}
BACK_S = 2.5  # the promise is 2; measuring has its own grain


def answers(client, path):
    """The JSON of a GET once the stack answers again."""
    def asked():
        try:
            reply = client.get(path, checked=False)
        except requests.RequestException:
            return None
        assert reply.status not in (401, 404), f"{path} is lost: {reply!r}"
        return reply.json if reply.status == 200 else None
    return wait_until(asked, 30, f"{path} to answer")


@pytest.fixture
def user(private):
    """An account; afterwards everything is steady again."""
    account = private.user()
    yield account
    private.wait_ready()
    wait_steady(account.client)
    audio.end_jobs(account.client)  # an hour's analysis would keep the next tests waiting
    account.close()


@pytest.mark.parametrize("victim", VICTIMS)
def test_killing_it_loses_nothing_that_was_acknowledged(private, user, victim):
    data = tracks.short_mp3()
    file = audio.upload(user.client, "kept.mp3", data)
    long_file = audio.upload(user.client, "silence.flac", tracks.hour_of_silence())
    pending = audio.store(user.client, "pending.mp3", data)
    jobs = [user.client.post("/api/audio/convert", {"fileId": long_file["id"], "format": "flac"},
                             expect=202).json["jobId"],
            user.client.post("/api/audio/waveform", {"fileId": file["id"]},
                             expect=202).json["jobId"]]
    wait_until(lambda: user.client.get(f"/api/jobs/{jobs[0]}").json["status"] == "processing", 20,
               "the job to start",
               every=0.01)

    pid = VICTIMS[victim](private)
    private.wait_ready()
    assert answers(user.client, "/api/auth/me")["id"] == user.id
    for job in jobs:
        wait_until(lambda job=job: answers(user.client,
                                           f"/api/jobs/{job}")["status"] in ("completed", "failed"),
                                           60,
                   f"job {job} to end")
        assert answers(user.client, f"/api/jobs/{job}")["status"] == "completed"
    assert audio.download(answers(user.client, f"/api/audio/{file['id']}/url")["url"]) == data
    done = wait_until(lambda: (r := audio.complete(user.client, pending["key"])).status == 201
                      and r, 20,
                      "the pending upload to complete")
    assert done.json["status"] == "verified"
    assert pid not in [p.pid for p in private.processes("api")]


@pytest.mark.parametrize("program", ["api", "worker", "scheduler", "redis", "postgres", "s3",
                                     "nginx"])
def test_a_killed_program_is_back_within_two_seconds(private, user, program):
    program = private.programs_of(program)[0]
    children = private.processes(program)
    old = private.kill_main(program)

    def is_back():
        main = private.main_process(program)  # fails while orphans of the old one are there
        is_orphan = any(main.pid == p.pid for p in children)
        return main.pid != old and not is_orphan and "launch.py" not in main.text
    wait_until(is_back, BACK_S, f"{program} to be back", every=0.02)


def test_a_killed_api_process_is_replaced(private):
    before = {p.pid for p in private.api_workers()}
    killed = private.kill_api_process()

    def is_replaced():
        now = {p.pid for p in private.api_workers()}
        return len(now) == len(before) and killed not in now
    wait_until(is_replaced, BACK_S, "the process to be replaced", every=0.02)


def test_a_job_whose_worker_was_killed_has_not_used_up_an_attempt(private, user):
    file = audio.upload(user.client, "silence.flac", tracks.hour_of_silence())
    job = user.client.post("/api/audio/convert", {"fileId": file["id"], "format": "mp3",
                                                  "bitrate": 320000},
                           expect=202).json["jobId"]
    wait_until(lambda: user.client.get(f"/api/jobs/{job}").json["status"] == "processing", 20,
               "the job to start")
    private.kill_workers()
    ended = audio.wait_job(user.client, job, seconds=240)  # an hour's encoding, on a machine that has other work
    assert ended["attempts"] == 1
    made = [f for f in user.client.get("/api/audio").json["items"] if f["origin"] == "convert"]
    assert len(made) == 1, "the effect took place once"
