"""The web site that the demo's programs download, on loopback, so that no network blurs the figures.

It answers like a distant site: each page after its own 20 to 60 ms, on connections that are kept
alive. It is a process of its own on plain asyncio, the same for both sides of every comparison.
Prints its address, then serves until its standard input closes, so it never outlives the demo.
"""

import asyncio
import sys


def latency(page: int) -> float:
    """Seconds before the page is answered: 20 to 60 ms, the same at every visit."""
    return 0.020 + (page * 37 % 41) / 1000


def size(page: int) -> int:
    """Bytes of the page: 2 to 30 KiB, the same at every visit."""
    return 2048 + page * 7919 % 28_672


class Visitor(asyncio.Protocol):
    """One connection: requests come one after another, each is answered when its time has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        while b"\r\n\r\n" in self.head:
            request, self.head = self.head.split(b"\r\n\r\n", 1)
            page = int(request.split(b" ", 2)[1].rsplit(b"/", 1)[1])
            self.loop.call_later(latency(page), self.answer, page)

    def answer(self, page: int) -> None:
        body = b"%d\n" % page * (size(page) // 2 + 1)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % size(page) + body[: size(page)])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Visitor, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
