"""A TCP link that can be slow, cut or dead: what stands between our programs and a server in tests."""
import asyncio
import socket
import threading


def free_socket():
    """A listening socket on a port of its own."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    return found


class SlowLink:
    """Listens on self.port and forwards to a port of the loopback.

    delay_s holds each piece of data back that long, in both directions."""

    def __init__(self, target=None):
        self.target, self.delay_s = target, 0.0
        self._socket = free_socket()
        self.port = self._socket.getsockname()[1]
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait(10)

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._socket))
        self._ready.set()
        self._loop.run_forever()

    async def _accept(self, reader, writer):
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def cut(self):
        """Break all connections that are open."""
        def close():
            for writer in list(self._writers):
                writer.transport.abort()
        self._loop.call_soon_threadsafe(close)

    def close(self):
        """End it."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._loop.stop)
        self._thread.join(10)
