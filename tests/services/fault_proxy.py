"""An HTTP proxy in front of an S3 server that lets requests fail as networks and servers do.

A fault is a function of the request's handler and body; the ones at the end of this file are ready for use:

    with running_proxy(seaweed.url) as proxy:
        proxy.inject(answer(500), methods="GET", count=2)
"""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

DRIP_BYTES = 1024


@dataclass
class Proxy:
    """A running proxy. `seen` lists what arrived as (method, path), whatever became of it."""

    url: str
    upstream: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    _faults: list["_Injected"] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, fault: "Fault", *, methods: str = "GET HEAD PUT POST DELETE", count: int | None = None) -> None:
        """Let the next `count` requests with these methods meet `fault`; None: all until `heal`."""
        with self._lock:
            self._faults.append(_Injected(fault, methods.split(), count))

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> "Fault | None":
        """The fault that this request meets, if any."""
        with self._lock:
            self.seen.append((method, path))
            for injected in self._faults:
                if method in injected.methods and injected.left != 0:
                    injected.left = injected.left and injected.left - 1
                    return injected.fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.take(self.command, self.path) or Handler.relay
        try:
            fault(self, body)
        except (ConnectionError, TimeoutError):
            # Either side hung up, which a fault may well have caused.
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def relay(self, body: bytes) -> None:
        """Ask upstream and pass the answer on unchanged."""
        self.respond(*self.ask(body))

    def ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """The answer of upstream, read whole. The Host header stays: it is part of the signature."""
        upstream = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer, answer.read()
        finally:
            upstream.close()

    def respond(self, answer: http.client.HTTPResponse, data: bytes) -> None:
        """Send the answer's head, which may promise more than `data`."""
        self.respond_head(answer, len(data))
        self.wfile.write(data)

    def respond_head(self, answer: http.client.HTTPResponse, length: int) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", str(length)))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


Fault = Callable[[Handler, bytes], None]


@dataclass
class _Injected:
    fault: Fault
    methods: list[str]
    left: int | None


@contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy on a free port, stopped afterwards."""
    handler = type("BoundHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.proxy = proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int) -> Fault:
    """An error of the server's own; nothing reaches upstream."""

    def fault(handler: Handler, body: bytes) -> None:
        _error(handler, status)

    return fault


def answer_after_all(status: int) -> Fault:
    """Upstream does what it was asked, and the client hears of an error."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.ask(body)
        _error(handler, status)

    return fault


def _error(handler: Handler, status: int) -> None:
    text = f"<?xml version='1.0'?><Error><Code>Injected</Code><Message>{status}</Message></Error>".encode()
    handler.send_response_only(status)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(text)


def drop(handler: Handler, body: bytes) -> None:
    """Reset the connection without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def wait(seconds: float) -> Fault:
    """Answer late."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.proxy.stopped.wait(seconds)
        handler.relay(body)

    return fault


def drip(pause_s: float) -> Fault:
    """Send the head, then 1 KiB at a time with a pause before each."""

    def fault(handler: Handler, body: bytes) -> None:
        found, data = handler.ask(body)
        handler.respond_head(found, len(data))
        for start in range(0, len(data), DRIP_BYTES):
            handler.proxy.stopped.wait(pause_s)
            handler.wfile.write(data[start : start + DRIP_BYTES])

    return fault


def truncate(keep: Callable[[int], int]) -> Fault:
    """Hang up after `keep(size)` of the body's `size` bytes."""

    def fault(handler: Handler, body: bytes) -> None:
        found, data = handler.ask(body)
        handler.respond(found, data[: keep(len(data))])
        handler.close_connection = True

    return fault


def flip_bit(handler: Handler, body: bytes) -> None:
    """One bit of the answer's body arrives wrong."""
    found, data = handler.ask(body)
    handler.respond(found, _flipped(data))


def flip_sent_bit(handler: Handler, body: bytes) -> None:
    """One bit of the request's body arrives wrong."""
    handler.respond(*handler.ask(_flipped(body)))


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
