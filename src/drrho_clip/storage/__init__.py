"""One interface over S3-compatible object stores and local folders; see `Store`."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from drrho_clip.errors import StorageError
from drrho_clip.storage.base import ObjectInfo, Store
from drrho_clip.storage.local import LocalStore

__all__ = ["ObjectInfo", "Store", "open_store"]


def open_store(uri: str | os.PathLike[str], *, patient: bool = False) -> Store:
    """Open `s3://bucket/prefix`, `file:///folder` or a folder.

    Endpoint, region and credentials come from the standard AWS environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, profiles, roles); nothing is sent before the first request.
    `patient`: a server that does not answer is asked again for some two minutes, not for four seconds.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not text:
            raise StorageError("No store is given", fix="Name a folder or s3://bucket/prefix.")
        return LocalStore(text)
    if scheme == "file":
        return LocalStore(unquote(urlsplit(text).path))
    if scheme == "s3":
        from drrho_clip.storage.s3 import S3Store  # boto3 takes its time to import
        from drrho_clip.storage.s3_client import Connection

        bucket, _, prefix = rest.partition("/")
        return S3Store(bucket, prefix.strip("/"), connection=Connection(patient=patient))
    raise StorageError(f"No store speaks '{scheme}://'", fix="Name a folder or s3://bucket/prefix.")
