"""HTTP by hand, for requests that no library would send."""
import socket
import urllib.parse

from . import client, record


class RawReply:
    """A reply as it came over the wire; status 0 where the server only closed the connection."""

    def __init__(self, data):
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        self.status = int(words[1]) if len(words) > 1 and words[0].startswith("HTTP/") else 0
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip()] = value.strip()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.body = _dechunk(self.body)

    @property
    def text(self):
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.text[:200]}>"


def _dechunk(data):
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if length == 0:
            break
        out += rest[:length]
        data = rest[length + 2:]
    return out


def connect(url, timeout=20):
    """A TCP connection to the server of a URL."""
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout)


def read_to_end(connection):
    """All that comes until the server closes; a reset counts as the end."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def exchange(url, request, method="GET", path="/", checked=True, timeout=20):
    """Send these bytes, read until the server closes, and hold the reply against the contract."""
    with connect(url, timeout) as connection:
        try:
            connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = RawReply(read_to_end(connection))
    if checked and reply.status:
        client.check_and_record(record.exchange_of(method, path, None, reply.status, reply.headers,
                                                   reply.text))
    return reply
