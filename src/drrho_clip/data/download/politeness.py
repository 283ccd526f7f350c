"""Whose turn it is: so many connections in all and per host, a pause between two requests, and a rate over everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from drrho_clip.data.download.limits import DownloadLimits

_LONGEST_PAUSE = 30.0  # seconds that a host's own request to wait holds up the rows behind it
_HOSTS = 10_000  # above so many, the ones at rest are forgotten


class Pace:
    """At most one start per `interval` seconds, in the order of asking."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self.ready = 0.0  # on the loop's clock

    async def turn(self) -> None:
        """Wait until the next start may be."""
        now = asyncio.get_running_loop().time
        while (wait := self.ready - now()) > 0:
            await asyncio.sleep(wait)
        self.ready = now() + self._interval


@dataclass
class _Host:
    slots: asyncio.Semaphore
    pace: Pace
    line: asyncio.Lock = field(default_factory=asyncio.Lock)  # keeps the order of those that wait for the pace
    users: int = 0


class Politeness:
    """Gives turns. What is known of a host is forgotten when nobody wants it and it has asked for nothing."""

    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._hosts: dict[str, _Host] = {}
        self._connections = asyncio.Semaphore(limits.connections)
        self._rate = Pace(1 / limits.rate) if limits.rate else None
        self._line = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a connection to the host; those that asked first come first."""
        host = self._hosts.get(name)
        if host is None:
            host = _Host(asyncio.Semaphore(self._limits.host_connections), Pace(self._limits.host_delay))
            self._hosts[name] = host
        host.users += 1
        try:
            async with host.slots:
                async with host.line:
                    await host.pace.turn()
                async with self._connections:
                    if self._rate is not None:
                        async with self._line:
                            await self._rate.turn()
                    yield
        finally:
            host.users -= 1
            self._forget(name, host)

    def is_wanted(self, name: str) -> bool:
        """Whether others wait for this host or use it, so that a connection is worth keeping."""
        return name in self._hosts and self._hosts[name].users > 1

    def pause(self, name: str, seconds: float) -> None:
        """Start nothing on the host for so long, as it has asked; 30 seconds at most."""
        if name in self._hosts:
            pace = self._hosts[name].pace
            pace.ready = max(pace.ready, asyncio.get_running_loop().time() + min(seconds, _LONGEST_PAUSE))

    def _forget(self, name: str, host: _Host) -> None:
        now = asyncio.get_running_loop().time()
        if not host.users and host.pace.ready <= now:
            self._hosts.pop(name, None)
        if len(self._hosts) > _HOSTS:
            self._hosts = {key: each for key, each in self._hosts.items() if each.users or each.pace.ready > now}
