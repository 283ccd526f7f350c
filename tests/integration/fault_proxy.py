"""A TCP proxy that breaks connections on demand: in front of a real server it is a network that fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

# SO_LINGER with a timeout of zero: close sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultProxy:
    """Relays to a server on 127.0.0.1; `cut` lets a number of response bytes pass and then breaks that connection.

    `refuse` answers requests itself, and `stall` lets them wait: each for the next ones, once a connection.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._guard = threading.Lock()
        self._pass_bytes: int | None = None
        self._cuts_left = 0
        self._reset = False
        self.cuts = 0  # connections broken so far
        self._answer, self._refusals_left = b"", 0
        self._stalls_left = 0
        self._closed = threading.Event()
        self.refusals = self.stalls = 0  # so far
        self.requests = 0  # heads of requests that came, in whole pieces

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *, after: int, reset: bool, times: int = 1) -> None:
        """Break the connection that carries the next `after` response bytes, by RST or FIN; then again, `times` in all."""
        with self._guard:
            self._pass_bytes, self._reset, self._cuts_left, self._after = after, reset, times, after

    def refuse(self, status: str, code: str, times: int) -> None:
        """Answer the next requests with an HTTP status and an S3 error code, and end their connections."""
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with self._guard:
            self._answer, self._refusals_left = (head + body).encode(), times

    def stall(self, times: int) -> None:
        """Give the next requests no answer at all."""
        with self._guard:
            self._stalls_left = times

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                threading.Thread(target=self._relay_requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._relay_responses, args=(server, client), daemon=True).start()

    def _relay_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                self.requests += data.count(b" HTTP/1.1\r\n")
                if self._refused(client) or self._stalled():
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _refused(self, client: socket.socket) -> bool:
        with self._guard:
            if not self._refusals_left:
                return False
            self._refusals_left -= 1
            self.refusals += 1
        client.sendall(self._answer)
        return True

    def _stalled(self) -> bool:
        with self._guard:
            if not self._stalls_left:
                return False
            self._stalls_left -= 1
            self.stalls += 1
        self._closed.wait()
        return True

    def _relay_responses(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server, client:
            while data := server.recv(1 << 16):
                allowed, broken = self._allow(len(data))
                client.sendall(data[:allowed])
                if broken:
                    if self._reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    # The other thread waits in recv, which would keep the connection open past its close.
                    client.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
                    return

    def _allow(self, size: int) -> tuple[int, bool]:
        with self._guard:
            if self._pass_bytes is None:
                return size, False
            if size < self._pass_bytes:
                self._pass_bytes -= size
                return size, False
            allowed = self._pass_bytes
            self.cuts += 1
            self._cuts_left -= 1
            self._pass_bytes = self._after if self._cuts_left else None
            return allowed, True
