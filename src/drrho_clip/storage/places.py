"""Objects by their location: in a store, or elsewhere, where they are only read."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from drrho_clip.errors import ConfigError
from drrho_clip.storage import open_store
from drrho_clip.storage.base import Store
from drrho_clip.storage.http import HttpStore


class Places:
    """Finds objects by location and keeps the stores that it has opened. Can be pickled.

    A location is a key of `store`, an absolute path, `s3://bucket/key` or `http(s)://host/path`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._opened: dict[str, Store] = {}

    def find(self, location: str) -> tuple[Store, str]:
        """Return the store in which an object lies, and its key there."""
        scheme, separator, rest = location.partition("://")
        if not separator:
            return (self._open("/"), location.lstrip("/")) if location.startswith("/") else (self.store, location)
        host, _, key = rest.partition("/")
        return self._open(f"{scheme}://{host}"), key

    def location_of(self, uri: str) -> str:
        """Return the location of what a path or URI names; ConfigError for a URL that holds what gives access.

        What lies in the store is named relative to it, so that a store can be moved with all that is in it.
        """
        if uri.startswith(("http://", "https://")):
            parts = urlsplit(uri)
            if "@" in parts.netloc or parts.query:
                raise ConfigError(
                    "A URL with a user or a query would have to stand in the manifest, for all to read",
                    where=parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl(),
                    fix="Copy these tars (leave `adopt` out).",
                )
            return uri
        location = uri if "://" in uri else str(Path(uri).expanduser().absolute())
        return location.removeprefix(self.store.uri.rstrip("/") + "/")

    def _open(self, root: str) -> Store:
        if root not in self._opened:
            self._opened[root] = self._opened_anew(root)
        return self._opened[root]

    def _opened_anew(self, root: str) -> Store:
        if root.startswith("http"):
            return HttpStore(root)
        if root.startswith("s3://"):
            from drrho_clip.storage.s3 import S3Store  # boto3 takes its time to import

            if isinstance(self.store, S3Store):  # a client takes its time to build
                return S3Store(root.removeprefix("s3://"), connection=self.store.connection)
        return open_store(root)
