"""The S3 server of a stack: folders, bucket, CORS rules. Signs with Signature Version 4 itself."""

import base64
import datetime
import hashlib
import hmac
import http.client
import os
import time

from .say import Refusal

CORS = """<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule>\
<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
<AllowedMethod>HEAD</AllowedMethod><AllowedMethod>PUT</AllowedMethod>\
<AllowedHeader>*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
<ExposeHeader>Content-Range</ExposeHeader><ExposeHeader>Accept-Ranges</ExposeHeader>\
<MaxAgeSeconds>3600</MaxAgeSeconds></CORSRule></CORSConfiguration>"""


def make_folders(place):
    """Objects, old versions; and metadata, where the file system keeps no extended attributes."""
    base = place.path("data", "s3")
    for name in ("objects", "versions"):
        place.make_folder(f"{base}/{name}")
    if os.path.isdir(f"{base}/metadata"):
        return
    probe = f"{base}/objects"
    try:
        os.setxattr(probe, "user.maxbooster", b"1")
        os.removexattr(probe, "user.maxbooster")
    except OSError:
        place.make_folder(f"{base}/metadata")


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def request(port, values, method, path, query="", body=b""):
    """One signed request; returns (status, body)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": f"127.0.0.1:{port}", "x-amz-date": stamp,
               "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    if body:
        headers["content-md5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
    names = ";".join(sorted(headers))
    canonical = "\n".join([method, path, query] + [f"{n}:{headers[n]}" for n in sorted(headers)]
                          + ["", names, headers["x-amz-content-sha256"]])
    scope = f"{day}/{values['AWS_REGION']}/s3/aws4_request"
    key = b"AWS4" + values["AWS_SECRET_ACCESS_KEY"].encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, "\n".join(["AWS4-HMAC-SHA256", stamp, scope,
                                      hashlib.sha256(canonical.encode()).hexdigest()])).hex()
    credential = f"{values['AWS_ACCESS_KEY_ID']}/{scope}"
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={credential}, "
                                f"SignedHeaders={names}, Signature={signature}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path + ("?" + query if query else ""), body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def await_ready(port, seconds=15):
    deadline = time.monotonic() + seconds
    while not healthy(port):
        if time.monotonic() > deadline:
            raise Refusal("The S3 server does not start; see log/s3.log of the stack.")
        time.sleep(0.05)


def make_bucket(port, values):
    """The bucket and its CORS rules, so that browsers may use presigned URLs. True if it is new."""
    path = "/" + values["S3_BUCKET"]
    status, body = request(port, values, "HEAD", path)
    is_new = status == 404
    if is_new:
        status, body = request(port, values, "PUT", path)
    if status != 200:
        raise Refusal(f"The bucket cannot be made (S3 says {status}: {body[:200]!r}).")
    if is_new or request(port, values, "GET", path, "cors=")[0] != 200:
        status, body = request(port, values, "PUT", path, "cors=", CORS.encode())
        if status not in (200, 204):
            raise Refusal(f"S3 refuses the bucket's CORS rules ({status}: {body[:200]!r}).")
    return is_new
