"""Jobs: what is promised, what is told, cancelling, and whose they are."""
import pytest

from harness import audio, tracks
from harness.waits import wait_until


@pytest.fixture(scope="module")
def owner(stack):
    """An account with a verified file."""
    account = stack.user()
    account.file = audio.upload(account.client, "owned.mp3", tracks.short_mp3())
    return account


@pytest.fixture(scope="module")
def long_file(stack, owner):
    """An hour of silence: a job on it takes a while."""
    return audio.upload(owner.client, "silence.flac", tracks.hour_of_silence())


def start(client, file, kind="waveform", **more):
    """The reply of a new job."""
    body = {"fileId": file["id"]} | ({"format": "wav"} if kind == "convert" else {}) | more
    return client.post(f"/api/audio/{kind}", body, expect=202)


def test_a_job_is_accepted_with_the_place_to_ask(owner):
    reply = start(owner.client, owner.file)
    assert reply.json["status"] == "processing"
    assert reply.json["statusUrl"] == f"/api/jobs/{reply.json['jobId']}"
    assert reply.headers["Location"] == reply.json["statusUrl"]
    owner.client.get(reply.json["statusUrl"], expect=200)


def test_a_job_is_on_its_owners_shard_before_it_is_accepted(stack, owner):
    job_id = start(owner.client, owner.file).json["jobId"]
    assert stack.shard_of(job_id) == stack.shard_of(owner.id)
    rows = stack.sql(stack.shard_of(job_id), "SELECT type FROM jobs WHERE id = %s", job_id)
    assert rows == [("audio-waveform",)]


def test_a_job_ends_with_times_in_order_and_full_progress(owner):
    job = audio.wait_job(owner.client, start(owner.client, owner.file).json["jobId"])
    assert job["progress"] == 100
    assert job["attempts"] == 1
    assert job["createdAt"] <= job["startedAt"] <= job["finishedAt"]


def test_progress_never_goes_back(owner, long_file):
    job_id = start(owner.client, long_file).json["jobId"]
    seen = []

    def ended():
        job = owner.client.get(f"/api/jobs/{job_id}", expect=200).json
        seen.append(job["progress"])
        return job["status"] == "completed"
    wait_until(ended, 60, "the end of the job", every=0.05)
    assert seen == sorted(seen)


def test_jobs_are_listed_the_newest_first(owner):
    ids = [start(owner.client, owner.file).json["jobId"] for _ in range(3)]
    first = owner.client.get("/api/jobs?limit=2", expect=200).json
    assert [job["jobId"] for job in first["items"]] == [ids[2], ids[1]]
    rest = owner.client.get(f"/api/jobs?limit=2&cursor={first['nextCursor']}", expect=200).json
    assert rest["items"][0]["jobId"] == ids[0]


def test_mails_and_other_work_of_the_system_are_not_among_your_jobs(stack):
    account = stack.user()
    stack.client().post("/api/auth/password/forgot", {"email": account.email}, expect=202)
    assert account.client.get("/api/jobs", expect=200).json["items"] == []


def test_another_users_job_is_not_there(owner, user):
    job_id = start(owner.client, owner.file).json["jobId"]
    user.client.get(f"/api/jobs/{job_id}", expect=404)
    user.client.delete(f"/api/jobs/{job_id}", expect=404)
    audio.wait_job(owner.client, job_id)


def test_a_running_job_can_be_cancelled(owner, long_file):
    job_id = start(owner.client, long_file, "convert", format="mp3", bitrate=320000).json["jobId"]
    wait_until(lambda: owner.client.get(f"/api/jobs/{job_id}").json["status"] == "processing", 60,
               "the job to start")
    owner.client.delete(f"/api/jobs/{job_id}", expect=204)
    job = owner.client.get(f"/api/jobs/{job_id}", expect=200).json
    assert job["status"] == "cancelled"
    assert job["result"] is None
    owner.client.delete(f"/api/jobs/{job_id}", expect=(204, 409))
    origins = [f["origin"] for f in owner.client.get("/api/audio?limit=5").json["items"]]
    assert "convert" not in origins


def test_a_finished_job_cannot_be_cancelled(owner):
    job_id = start(owner.client, owner.file).json["jobId"]
    audio.wait_job(owner.client, job_id)
    owner.client.delete(f"/api/jobs/{job_id}", expect=409)
    assert owner.client.get(f"/api/jobs/{job_id}").json["status"] == "completed"


def test_a_job_on_a_file_that_is_deleted_meanwhile_fails_with_a_reason_or_is_done(user):
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    job_id = start(user.client, file).json["jobId"]
    user.client.delete(f"/api/audio/{file['id']}", expect=204)
    job = audio.wait_job(user.client, job_id, wanted=("failed", "completed"))
    assert job["status"] == "completed" or job["error"]["code"]


def test_a_job_that_is_not_there_is_404(client):
    client.get("/api/jobs/9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e", expect=404)
    client.get("/api/jobs/1", expect=404)


def test_urls_of_a_result_are_signed_afresh(owner):
    job_id = start(owner.client, owner.file).json["jobId"]
    audio.wait_job(owner.client, job_id)
    for _ in range(2):
        job = owner.client.get(f"/api/jobs/{job_id}").json
        for file in job["result"]["files"]:
            assert audio.download(file["url"])
