"""What schemathesis cannot know: sessions, and ids of things that are there.

What ends sessions gets one of its own for each request, and of another user, so that the rest keeps
its. Paths and bodies of the rest name a real file, job or upload in every second case."""
import itertools
import json
import os
import urllib.request

import schemathesis

ENDING = {"h_auth_logout", "h_auth_logout_all", "h_auth_session_delete", "h_auth_password_change"}
KEPT_TOKEN = os.environ["MB_TOKEN"]
LEAVER = {"email": os.environ["MB_LEAVER"], "password": os.environ["MB_LEAVER_PASSWORD"]}
IDS = {"/api/audio/{id}": os.environ["MB_FILE_ID"], "/api/audio/{id}/url": os.environ["MB_FILE_ID"],
       "/api/jobs/{id}": os.environ["MB_JOB_ID"], "/api/users/{id}": os.environ["MB_USER_ID"]}
TURN = itertools.count()


def log_in():
    """A new session of the user whose sessions may end."""
    request = urllib.request.Request(os.environ["MB_URL"] + "/api/auth/login",
                                     json.dumps(LEAVER).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)["token"]


@schemathesis.auth(refresh_interval=None)
class Bearer:
    """The token in the header; schemathesis leaves it out itself where it looks for open doors."""

    def get(self, case, ctx):
        """A token for the case."""
        is_ending = case.operation.definition.raw["operationId"] in ENDING
        return log_in() if is_ending else KEPT_TOKEN

    def set(self, case, data, ctx):
        """Send it along."""
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    """An id of something that is there; it is not for deletion."""
    operation = ctx.operation
    if operation.method.upper() != "DELETE" and operation.path in IDS and next(TURN) % 2:
        return {**path_parameters, "id": IDS[operation.path]}
    return path_parameters


@schemathesis.hook
def map_body(ctx, body):
    """The same in bodies that name a file."""
    if isinstance(body, dict) and "fileId" in body and next(TURN) % 2:
        return {**body, "fileId": os.environ["MB_FILE_ID"]}
    return body
