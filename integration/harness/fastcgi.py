"""FastCGI by hand (Open Market specification 1.0): to the API's socket without the proxy."""
import socket
import struct

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR = 1, 2, 3, 4, 5, 6, 7


def length(n):
    """A length of a name or value."""
    return struct.pack(">B", n) if n < 128 else struct.pack(">I", n | 0x80000000)


def pairs(params):
    """Name-value pairs."""
    out = b""
    for name, value in params.items():
        name, value = _bytes(name), _bytes(value)
        out += length(len(name)) + length(len(value)) + name + value
    return out


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def frame(kind, content=b"", request_id=1, version=1, claimed=None):
    """One record; claimed overrides the length that the header tells."""
    size = len(content) if claimed is None else claimed
    return struct.pack(">BBHHBB", version, kind, request_id, size, 0, 0) + content


def stream(kind, content, request_id=1):
    """A stream of records and its end."""
    out = b""
    for start in range(0, len(content), 65000):
        out += frame(kind, content[start:start + 65000], request_id)
    return out + frame(kind, b"", request_id)


def request(params, body=b"", role=1, flags=0, request_id=1):
    """A whole request."""
    begin = frame(BEGIN, struct.pack(">HB5x", role, flags), request_id)
    return begin + stream(PARAMS, pairs(params), request_id) + stream(STDIN, body, request_id)


def ask(path, data, timeout=5, close_write=False):
    """Send bytes to a unix socket and read until it closes or falls silent; the STDOUT text."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        answer = b""
        try:
            connection.sendall(data)
            if close_write:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass
    return stdout_of(answer)


def kinds_of(data):
    """Kinds of the whole records of an answer."""
    kinds = []
    while len(data) >= 8:
        _version, kind, _id, size, padding, _ = struct.unpack(">BBHHBB", data[:8])
        if len(data) < 8 + size + padding:
            break
        kinds.append(kind)
        data = data[8 + size + padding:]
    return kinds


def stdout_of(data):
    """The STDOUT stream of an answer."""
    out = b""
    while len(data) >= 8:
        _version, kind, _id, size, padding, _ = struct.unpack(">BBHHBB", data[:8])
        if kind == STDOUT:
            out += data[8:8 + size]
        data = data[8 + size + padding:]
    return out.decode("utf-8", "replace")
