"""A TCP link that can be slow, cut, dead or silent: what stands between our programs and a server in tests."""
import asyncio
import socket
import threading


TCP_ESTABLISHED = 1  # of TCP_INFO, where the other side has not closed


def bound_socket(port=0):
    """A socket that has a port and does not listen yet: who connects is refused."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", port))
    return found


def _is_established(writer):
    """By the kernel, which knows at once."""
    try:
        return writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED
    except OSError:
        return False


class SlowLink:
    """Listens on self.port and forwards to a port of the loopback.

    delay_s holds each piece of data back that long, in both directions. is_silent: connections are
    taken, and nothing that is sent on them arrives. n_accepted counts connections, n_open those that
    are open now, most_open the most at once since mark(); what the other side has closed is not open,
    even where we come to read its end later."""

    def __init__(self, target=None):
        self.target, self.delay_s, self.is_silent = target, 0.0, False
        self.n_accepted = self.most_open = 0
        self._socket, self._server = bound_socket(), None
        self.port = self._socket.getsockname()[1]
        self._writers, self._clients = set(), set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.up()

    @property
    def n_open(self):
        """Connections whose end we have not read."""
        return len(self._clients)

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _run(self, work):
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self, reader, writer):
        self.n_accepted += 1
        self._writers.add(writer)
        self._clients.add(writer)
        self.most_open = max(self.most_open, sum(map(_is_established, self._clients)))
        try:
            await self._forward(reader, writer)
        finally:
            self._clients.discard(writer)
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, reader, writer):
        if self.is_silent:
            while await self._read(reader):
                pass
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self._writers.add(back)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers.discard(back)

    async def _read(self, reader):
        try:
            return await reader.read(65536)
        except OSError:
            return b""

    async def _pump(self, reader, writer):
        try:
            while data := await self._read(reader):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.is_silent:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        writer.close()

    async def _abort(self):
        for writer in list(self._writers):
            writer.transport.abort()

    def cut(self):
        """Break all connections that are open."""
        self._run(self._abort())

    def up(self):
        """Listen."""
        async def listen():
            self._server = await asyncio.start_server(self._accept, sock=self._socket)
        self._run(listen())

    def down(self):
        """Refuse connections, and break those that are open."""
        async def close():
            self._server.close()
            self._socket = bound_socket(self.port)
            await self._abort()
        self._run(close())

    def mark(self):
        """Count most_open from now on."""
        self.most_open = self.n_open

    def close(self):
        """End it."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._loop.stop)
        self._thread.join(10)
