"""One attempt at one URL, and why it failed: a reason from a closed list."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
import zlib
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from drrho_clip import __version__
from drrho_clip.data.download.addresses import PRIVATE, Resolver, socket_maker
from drrho_clip.data.download.limits import DownloadLimits
from drrho_clip.data.download.reasons import FETCH_REASONS

USER_AGENT = f"drrho-clip/{__version__} (collects images for training)"

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_UNUSABLE = re.compile(r"[\x00-\x1f\ud800-\udfff]")  # in a URL: control characters and halves of characters
_NO_AI = frozenset(("noai", "noimageai"))
_BY_STATUS = {
    **dict.fromkeys((404, 410), "http_gone"),
    **dict.fromkeys((401, 403, 451), "http_denied"),
    **dict.fromkeys((408, 425, 429, 503), "http_busy"),
}


class FetchError(Exception):
    """An attempt that brought nothing: `reason` is one of FETCH_REASONS, `status` the last HTTP status (0 = none)."""

    def __init__(self, reason: str, detail: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(reason, detail)
        assert reason in FETCH_REASONS
        self.reason, self.detail, self.status, self.retry_after = reason, detail, status, retry_after


class Fetcher:
    """Fetches bodies over connections that are kept as long as somebody wants their host."""

    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,  # whose turn it is is decided elsewhere
            resolver=Resolver(),
            use_dns_cache=False,
            socket_factory=socket_maker(allow_private=self._limits.allow_private),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT_SECONDS, self._limits.timeout)),
            auto_decompress=False,  # a few bytes may unpack to gigabytes
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: URL, *, keep: bool) -> tuple[bytes, int]:
        """Return (body, status), following redirects; `keep` says that the connection will be wanted. Raises FetchError."""
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await self._follow(url, keep=keep)
        except TimeoutError:
            raise FetchError("timeout", f"no whole answer within {self._limits.timeout:g} s") from None
        except aiohttp.ClientConnectorDNSError as error:
            raise FetchError("dns", f"{error.host}: {error.os_error.strerror or 'not found'}") from None
        except aiohttp.ClientSSLError as error:
            raise FetchError("tls", _words(error)) from None
        except aiohttp.ClientPayloadError:
            raise FetchError("cut_short", "the connection ended before the body did", status=200) from None
        except ValueError as error:  # aiohttp's InvalidURL, too
            raise FetchError("bad_url", _words(error)) from None
        except aiohttp.ClientResponseError:
            raise FetchError("connection", "the answer is not of HTTP, or more than it announced") from None
        except (aiohttp.ClientError, OSError) as error:
            words = _words(error)
            if PRIVATE in words:
                raise FetchError("address", PRIVATE) from None
            raise FetchError("connection", words) from None

    async def _follow(self, url: URL, *, keep: bool) -> tuple[bytes, int]:
        assert self._session is not None
        for _ in range(_MOST_REDIRECTS + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                target = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not target:
                    body = await self._body(response)
                    if not keep:
                        response.close()
                    return body, response.status
                response.close()  # whatever its body is
            url = url.join(parse_url(target, relative=True))
            check_scheme(url)
        raise FetchError("redirects", f"more than {_MOST_REDIRECTS}", status=response.status)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise FetchError(
                _BY_STATUS.get(response.status, "http_server" if response.status >= 500 else "http_other"),
                f"{response.status} {response.reason}"[:80],
                status=response.status,
                retry_after=_retry_after(response.headers.get("Retry-After", "")),
            )
        if self._limits.respect_robots and _forbids(response.headers.getall("X-Robots-Tag", [])):
            raise FetchError("robots", "X-Robots-Tag forbids the use for AI", status=200)
        most, parts, size = self._limits.max_bytes, [], response.content_length or 0
        if size <= most:
            size = 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > most:
                    break
                parts.append(part)
        if size > most:
            raise FetchError("too_large", f"more than {most} bytes", status=200)
        return self._unpacked(b"".join(parts), response.headers.get("Content-Encoding", ""))

    def _unpacked(self, data: bytes, encoding: str) -> bytes:
        if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
            return data  # what else there may be is no image then
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            unpacked = unpacker.decompress(data, self._limits.max_bytes + 1)
        except zlib.error as error:
            raise FetchError("cut_short", f"a broken {encoding} body: {error}", status=200) from None
        if len(unpacked) > self._limits.max_bytes:
            raise FetchError("too_large", f"unpacks to more than {self._limits.max_bytes} bytes", status=200)
        return unpacked


def parse_url(text: str, *, relative: bool = False) -> URL:
    """Return the URL, as it is where it is plain ASCII; raise FetchError."""
    text = text.strip()
    try:
        if not text or _UNUSABLE.search(text):
            raise ValueError("control characters")
        url = URL(text, encoded=text.isascii() and " " not in text)
        if not relative:
            check_scheme(url)
        return url
    except ValueError as error:
        raise FetchError("bad_url", f"{text[:100]!r}: {error}".encode("utf-8", "backslashreplace").decode()) from None


def check_scheme(url: URL) -> None:
    """Raise FetchError unless the URL is one of http or https, with a host."""
    if url.scheme not in ("http", "https") or not url.host:
        raise FetchError("bad_url", f"{str(url)[:100]!r} is no URL of http or https")


def _forbids(values: list[str]) -> bool:
    words = (word.rpartition(":")[2].strip().lower() for value in values for word in value.split(","))
    return not _NO_AI.isdisjoint(words)


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it says nothing."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _words(error: BaseException) -> str:
    inner = getattr(error, "os_error", error)
    return " ".join((getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).split())[:200]
