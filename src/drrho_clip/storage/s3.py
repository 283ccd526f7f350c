"""A store in a bucket of any S3-compatible server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from botocore.exceptions import ClientError

from drrho_clip.errors import ObjectChanged, ObjectMissing, StorageError
from drrho_clip.storage.base import Bytes, ObjectInfo, check_key, check_prefix
from drrho_clip.storage.files import disk_errors
from drrho_clip.storage.multipart import PART_BYTES, MultipartUpload, read_file
from drrho_clip.storage.ranged import RangedReader, RangedStore
from drrho_clip.storage.s3_client import Connection

LARGEST_PUT = 64 << 20
"""Bytes that go in one request: what is broken off is sent again whole, and a server takes 5 GiB at most."""


class S3Store(RangedStore):
    """Objects below `prefix` of a bucket."""

    def __init__(self, bucket: str, prefix: str = "", *, page_size: int = 1000, connection: Connection | None = None) -> None:
        if not bucket or "@" in bucket:
            raise StorageError(
                "The store's URI has no bucket", fix="Write s3://bucket/prefix; credentials go into AWS_* variables."
            )
        self.bucket, self.prefix, self.page_size = bucket, check_prefix(prefix), page_size
        self.connection = connection or Connection()
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def at(self, prefix: str) -> Self:
        """Return the store of everything below `prefix`."""
        return type(self)(self.bucket, self._full(prefix.removesuffix("/")), page_size=self.page_size, connection=self.connection)

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is there, or None; a bucket that is not there is a StorageError."""
        uri = self.uri_of(key)
        try:
            with self.connection.errors(uri):
                response = self.connection.client.head_object(Bucket=self.bucket, Key=self._full(key))
        except ObjectMissing:
            self._check_bucket(uri)
            return None
        return ObjectInfo(key, response["ContentLength"], response["ETag"].strip('"'))

    def write(self, key: str, data: Bytes, *, if_absent: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Put an object in one request, conditionally where asked; a large one without a condition in parts."""
        if len(data) > LARGEST_PUT and not if_absent and if_match is None:
            view = memoryview(data)
            return self._in_parts(key, lambda start, stop: bytes(view[start:stop]), len(data))
        condition: dict[str, str] = {}
        if if_absent:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = f'"{if_match}"'
        info = ObjectInfo(key, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
        try:
            with self.connection.errors(self.uri_of(key)):
                response = self.connection.client.put_object(
                    Bucket=self.bucket, Key=self._full(key), Body=bytes(data), **condition
                )
        except ObjectMissing as error:  # how some servers say that there is nothing to match
            raise ObjectChanged("There is no object of the version that was expected", where=error.where) from error
        except ObjectChanged as error:
            if self._refused_itself(error, info):
                return info
            raise
        return ObjectInfo(key, len(data), response["ETag"].strip('"'))

    def upload(self, key: str, path: str | os.PathLike[str], *, if_absent: bool = False) -> ObjectInfo:
        """Put a file: in one request where it is small, else in parts that become the object all at once."""
        path = Path(path)
        with disk_errors(path):
            size = path.stat().st_size
            if size <= PART_BYTES:
                return self.write(key, path.read_bytes(), if_absent=if_absent)
            return self._in_parts(key, partial(read_file, path), size, if_absent=if_absent)

    def _in_parts(self, key: str, read: Callable[[int, int], bytes], size: int, *, if_absent: bool = False) -> ObjectInfo:
        upload = MultipartUpload(self.connection.client, self.bucket, self._full(key), read, size)
        try:
            with self.connection.errors(self.uri_of(key)):
                etag = upload.run(if_absent=if_absent)
        except StorageError as error:
            if not self._refused_itself(error, ObjectInfo(key, size, upload.etag)):
                raise
            etag = upload.etag
        info = self.head(key)
        if if_absent and info is not None and info.etag != etag:  # the server looked, and completed, in two steps
            raise ObjectChanged("Another upload of this object won", where=self.uri_of(key))
        if info is None or info.size != size:
            raise StorageError(f"The store took {size:,} bytes and holds {info.size if info else 0:,}", where=self.uri_of(key))
        return info

    def _refused_itself(self, error: StorageError, written: ObjectInfo) -> bool:
        """Whether a refusal answers the repetition of a request that had succeeded, its answer having been lost."""
        cause = error.__cause__
        if not isinstance(cause, ClientError) or not cause.response.get("ResponseMetadata", {}).get("RetryAttempts"):
            return False
        found = self.head(written.key)
        return found is not None and (found.size, found.etag) == (written.size, written.etag)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, after the last page: not all servers sort as AWS does."""
        base = f"{self.prefix}/" if self.prefix else ""
        pages = self.connection.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=base + check_prefix(prefix), PaginationConfig={"PageSize": self.page_size}
        )
        with self.connection.errors(f"{self.uri}/{prefix}"):
            items = [item for page in pages for item in page.get("Contents", ())]
        for item in sorted(items, key=lambda item: item["Key"].encode()):
            if not item["Key"].endswith("/"):  # the marker of a folder is no object
                yield ObjectInfo(item["Key"].removeprefix(base), item["Size"], item["ETag"].strip('"'))

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self.connection.errors(self.uri_of(key)):
            self.connection.client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def _full(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _check_bucket(self, uri: str) -> None:
        """Tell 'no such object' from 'no such bucket', which the answer to HEAD does not."""
        try:
            with self.connection.errors(uri):
                self.connection.client.head_bucket(Bucket=self.bucket)
        except ObjectMissing as error:
            raise StorageError(
                "There is no such bucket", where=error.where, fix="Create the bucket, or correct its name or the endpoint."
            ) from error

    def _ranged(self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> RangedReader:
        uri, full = self.uri_of(key), self._full(key)

        def get(first: int, last: int | None, version: str | None) -> Any:
            asked: dict[str, str] = {} if version is None else {"IfMatch": f'"{version}"'}
            if first or last is not None:
                asked["Range"] = f"bytes={first}-{'' if last is None else last}"
            return self.connection.client.get_object(Bucket=self.bucket, Key=full, **asked)

        return RangedReader(get, self.connection.errors, uri, start=start, stop=stop, etag=etag)
