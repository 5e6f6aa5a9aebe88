"""The servers of the lab's IPv4 Internet; run inside the isp guest's namespace "internet".

Each address in ADDRESSES has all of them:
  TCP 80    HTTP: "/" a page, "/peer" the client's address as JSON, "/big?bytes=N" N known bytes
  TCP 7     says {"peer": [address, port]} in a first line, then echoes
  UDP 7     answers {"peer": [address, port], "data": text} to every datagram
Ping is answered by the kernel. Ready when "ready" is in the output.
"""

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

ADDRESSES = ("198.51.100.1", "198.51.100.2", "203.0.113.1")
PAGE = b"<!doctype html><title>lab</title><p>The Internet of the lab.</p>\n"
BIG = 1 << 20
PATTERN = bytes(range(256)) * 256


def peer_json(peer):
    return json.dumps({"peer": list(peer[:2])}).encode() + b"\n"


async def send_big(writer, size):
    """Send `size` bytes of a pattern that the client can check by its hash."""
    while size > 0:
        writer.write(PATTERN[:size])
        size -= len(PATTERN)
        await writer.drain()


async def serve_http(reader, writer):
    try:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        url = urlsplit(line.split()[1].decode())
        if url.path == "/big":
            size = int(parse_qs(url.query).get("bytes", [BIG])[0])
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await send_big(writer, size)
        else:
            body = peer_json(writer.get_extra_info("peername")) if url.path == "/peer" else PAGE
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
    except (OSError, IndexError, ValueError):
        pass  # a client that left or spoke nonsense: its connection ends, ours go on
    writer.close()


async def serve_echo(reader, writer):
    try:
        writer.write(peer_json(writer.get_extra_info("peername")))
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


class UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        answer = {"peer": list(addr[:2]), "data": data.decode("latin-1")}
        self.transport.sendto(json.dumps(answer).encode(), addr)


async def main():
    loop = asyncio.get_running_loop()
    for address in ADDRESSES:
        await asyncio.start_server(serve_http, address, 80, backlog=200)
        await asyncio.start_server(serve_echo, address, 7, backlog=200)
        await loop.create_datagram_endpoint(UdpEcho, local_addr=(address, 7))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
