"""Ask an API pool by its socket, past the proxy (FastCGI 1.0)."""

import re
import socket
import struct

BEGIN, PARAMS, STDIN, STDOUT = 1, 4, 5, 6
RESPONDER = 1


def _record(kind, content=b""):
    return struct.pack(">BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def _pair(name, value):
    """Lengths below 128 only."""
    return bytes([len(name), len(value)]) + name + value


def status(path, uri, seconds=3):
    """HTTP status of GET uri; 0 where nothing answers."""
    params = _pair(b"REQUEST_METHOD", b"GET") + _pair(b"REQUEST_URI", uri.encode())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        data = b""
        try:
            connection.connect(path)
            connection.sendall(_record(BEGIN, struct.pack(">HB5x", RESPONDER, 0))
                               + _record(PARAMS, params) + _record(PARAMS) + _record(STDIN))
            while piece := connection.recv(65536):
                data += piece
        except OSError:
            return 0
    found = re.search(rb"Status: (\d{3})", data)
    return int(found.group(1)) if found else 0
