"""Which addresses may be connected to, and names looked up with a bounded memory."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

PRIVATE = "the address is not a public one"

_METADATA = frozenset((IPv4Address("168.63.129.16"),))  # Azure's, the one that lies in no private range
_NAMES = 10_000
_GOOD_SECONDS, _BAD_SECONDS = 300.0, 2.0  # a failure must not outlast the pause between two rounds


class PrivateAddress(OSError):
    """A connection to an address that is not public; the text is always `PRIVATE`, by which it is known in a joined error."""

    def __init__(self) -> None:
        super().__init__(PRIVATE)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: not private, loopback, link-local, shared, multicast or reserved.

    IPv6 addresses that hold one of IPv4 (mapped, 6to4, Teredo, NAT64) are public only where both are, which leaves 6to4.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:  # a spelling that only the system understands
        return False
    if isinstance(ip, IPv6Address) and ip.sixtofour is not None and not is_public(str(ip.sixtofour)):
        return False
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not special and ip not in _METADATA


def socket_maker(*, allow_private: bool) -> Callable[[Any], socket.socket]:
    """Return what makes the socket for an address that is about to be connected to, and refuses one that is not public.

    It stands behind every name, redirect and odd spelling: nothing is connected to without it.
    """

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not allow_private and not is_public(address[0]):
            raise PrivateAddress
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make


class Resolver(AbstractResolver):
    """The system's names, each looked up once in five minutes (two seconds where that failed); 10,000 are held."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, asyncio.Task[list[tuple[Any, ...]]]]] = OrderedDict()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return the addresses of a name; OSError where there is none."""
        found = await asyncio.shield(self._lookup(host))  # one that gives up must not end it for the others
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST)
            for kind, _, protocol, _, address in found
        ]

    def _lookup(self, host: str) -> asyncio.Task[list[tuple[Any, ...]]]:
        now = asyncio.get_running_loop().time()
        until, task = self._known.get(host, (0.0, None))
        if task is None or until <= now:
            task = asyncio.create_task(_addresses(host))
            task.add_done_callback(lambda done: self._shorten(host, done))
            self._known[host] = (now + _GOOD_SECONDS, task)
            while len(self._known) > _NAMES:
                self._known.popitem(last=False)
        self._known.move_to_end(host)
        return task

    def _shorten(self, host: str, task: asyncio.Task[list[tuple[Any, ...]]]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        if self._known.get(host, (0.0, None))[1] is task:
            self._known[host] = (asyncio.get_running_loop().time() + _BAD_SECONDS, task)

    async def close(self) -> None:
        """Forget everything."""
        for _, task in self._known.values():
            task.cancel()
        self._known.clear()


async def _addresses(host: str) -> list[tuple[Any, ...]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError as error:  # a label that is empty or longer than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"no possible name ({error.__class__.__name__})") from None
    return [info for info in found if "%" not in str(info[4][0])]
