"""How much a download may take, of others and of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from drrho_clip.data.config import IngestConfig


@dataclass(frozen=True)
class DownloadLimits:
    """What the settings of the step say, and what is fixed."""

    connections: int = 128  # at once, in all
    host_connections: int = 8  # at once to one host
    host_delay: float = 0.0  # seconds between two requests to one host
    rate: float = 0.0  # requests per second in all; 0 = no limit
    timeout: float = 30.0  # seconds for one attempt, redirects and body included
    rounds: int = 3  # attempts per row
    backoff: float = 2.0  # seconds before the second attempt; twice as long before each further one
    max_bytes: int = 32 * 2**20  # of one body, unpacked
    allow_private: bool = False
    respect_robots: bool = True
    # Rows go out in their order, so that those behind a slow one have to wait: in memory, then on the disk.
    window_rows: int = 16_384
    window_memory: int = 64 * 2**20
    window_bytes: int = 4 * 2**30

    @classmethod
    def of(cls, config: IngestConfig) -> DownloadLimits:
        """Take the limits out of the settings of the step: those that spare others are for all groups together."""
        return cls(
            connections=config.download_connections,
            host_connections=max(1, config.download_host_connections // config.groups),
            host_delay=config.download_host_delay * config.groups,
            rate=config.download_rate / config.groups,
            timeout=config.download_timeout,
            rounds=config.download_rounds,
            backoff=config.download_backoff,
            max_bytes=config.max_download_bytes,
            allow_private=config.allow_private,
            respect_robots=config.respect_robots,
        )

    @property
    def ready(self) -> int:
        """Rows that may be there and not yet be taken."""
        return max(256, 2 * self.connections)

    @property
    def waiting(self) -> int:
        """Rows that may wait for their host at once: enough for busy hosts not to leave the others idle."""
        return 8 * self.connections
