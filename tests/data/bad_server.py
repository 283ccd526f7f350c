"""A real web server on 127.0.0.1 that misbehaves on purpose: each path has a script of answers, by its first word."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache
from types import TracebackType
from typing import Self

import numpy as np
from aiohttp import web
from PIL import Image
from source_helpers import picture

_QUIET = logging.Logger("unheard")  # what it does is wrong on purpose
_BOMB = gzip.compress(bytes(50_000_000))


@cache
def image_for(name: str, side: int = 24, kind: str = "PNG") -> bytes:
    """The picture of a name: coloured clouds, so that it has a look of its own."""
    blocks = np.random.default_rng(list(name.encode())).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind, quality=85)
    return buffer.getvalue()


class BadServer:
    """`/WORD/name`: WORD says how the answer for `name` goes wrong; `requests` counts what was asked for, by path."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[object] = set()
        self.at_once = self.most_at_once = 0
        self.delay: Callable[[str], float] = lambda name: 0.0
        self.healed = False  # what fails for a passing reason goes well from now on
        self.url = ""

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def of(self, *paths: str) -> list[str]:
        return [f"{self.url}/{path}" for path in paths]

    def _serve(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._stop = asyncio.Event()
            runner = web.ServerRunner(web.Server(self._answer, logger=_QUIET, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
            ready.set()
            await self._stop.wait()
            await runner.cleanup()
            hanging = asyncio.all_tasks() - {asyncio.current_task()}
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

        self._loop.run_until_complete(main())

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.lstrip("/")
        self.requests[path] += 1
        self.times.append((path, time.monotonic()))
        self.headers.append(dict(request.headers))
        self.connections.add(request.transport)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay(path))
            word, _, name = path.partition("/")
            return await ANSWERS[word](self, request, name)
        finally:
            self.at_once -= 1

    def count(self, path: str) -> int:
        return self.requests[path]


def good(name: str, **headers: str) -> web.Response:
    return web.Response(body=image_for(name), content_type="image/png", headers=headers)


def close(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def image(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return good(name)


async def status(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(status=int(name.split("/")[0]), text="no")


async def ailing(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """`/ailing/503/x`: so until the server is healed."""
    code, _, rest = name.partition("/")
    return good(rest) if server.healed else web.Response(status=int(code))


async def once(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """`/once/500/x`: the first answer is 500, later ones are good."""
    code, _, rest = name.partition("/")
    return good(rest) if server.count(f"once/{name}") > 1 else web.Response(status=int(code))


async def busy(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    if server.count(f"busy/{name}") > 1:
        return good(name)
    return web.Response(status=429, headers={"Retry-After": "1"})


async def hang(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    await asyncio.sleep(60)
    return good(name)


async def drip(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(600):
            await response.write(b"x")
            await asyncio.sleep(0.1)
    return response


async def cut(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """The connection ends in the middle of the body, the first time."""
    if server.count(f"cut/{name}") > 1:
        return good(name)
    response = web.StreamResponse(headers={"Content-Length": str(len(image_for(name)))})
    await response.prepare(request)
    await response.write(image_for(name)[:50])
    close(request)
    return response


async def short(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """Announces fewer bytes than there are."""
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + image_for(name))
    await asyncio.sleep(0.05)
    return close(request)


async def vanish(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return close(request)


async def loop(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": f"/loop/{name}"})


async def to(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """`/to/http%3A//other/x`: redirects there."""
    return web.Response(status=301, headers={"Location": name})


async def bomb(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(body=_BOMB, headers={"Content-Encoding": "gzip"})


async def packed(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(body=gzip.compress(image_for(name)), headers={"Content-Encoding": "gzip"})


async def huge(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """Never ends and says nothing of its length."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            await response.write(bytes(1 << 18))
    return response


async def announced(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await asyncio.sleep(60)
    return response


async def html(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(text="<html>gone</html>", content_type="text/html")


async def robots(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return good(name, **{"X-Robots-Tag": "noimageindex, NoAI"})


async def same(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return good("same")


async def larger(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    """What `same` gives, as a JPEG of another size."""
    return web.Response(body=image_for("same", 40 + int(name), "JPEG"))


async def flat(server: BadServer, request: web.BaseRequest, name: str) -> web.StreamResponse:
    return web.Response(body=picture(int(name)), content_type="image/png")


ANSWERS: dict[str, Callable[[BadServer, web.BaseRequest, str], Awaitable[web.StreamResponse]]] = {
    handler.__name__: handler
    for handler in (
        *(image, status, ailing, once, busy, hang, drip, cut, short, vanish, loop, to),
        *(bomb, packed, huge, announced, html, robots, same, larger, flat),
    )
}
