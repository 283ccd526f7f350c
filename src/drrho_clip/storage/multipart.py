"""Uploads in parts: a few in flight, all or nothing, and conditional like a single PUT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from drrho_clip.errors import StorageError

PART_BYTES = 8 << 20
MOST_PARTS = 10_000
IN_FLIGHT = 4


@dataclass
class MultipartUpload:
    """The upload of `size` bytes as one object; `client` is a boto3 S3 client.

    `read` gives the bytes from a start to a stop; it is called from several threads, and again when a request is repeated.
    """

    client: Any
    bucket: str
    key: str
    read: Callable[[int, int], bytes]
    size: int
    md5s: list[bytes] = field(default_factory=list)

    def run(self, *, if_absent: bool) -> str:
        """Upload every part, complete and return the ETag; the parts of an upload that fails are removed."""
        name = {"Bucket": self.bucket, "Key": self.key}
        upload = {**name, "UploadId": self.client.create_multipart_upload(**name)["UploadId"]}
        starts = range(0, self.size, max(PART_BYTES, -(-self.size // MOST_PARTS)))
        try:
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                sent = list(pool.map(partial(self._send, upload, starts.step), starts))
            self.md5s = [md5 for _, md5 in sent]
            parts = [{"PartNumber": number, "ETag": etag} for number, (etag, _) in enumerate(sent, start=1)]
            condition = {"IfNoneMatch": "*"} if if_absent else {}
            completed = self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            self._abort(upload)
            raise
        return str(completed["ETag"]).strip('"')

    @property
    def etag(self) -> str:
        """ETag of the whole as S3 makes it, md5 of the parts' md5s and their number; "" before all parts are up."""
        return f"{_md5(b''.join(self.md5s)).hex()}-{len(self.md5s)}" if self.md5s else ""

    def _send(self, upload: dict[str, str], part_bytes: int, start: int) -> tuple[str, bytes]:
        """Send the part that begins at `start`; return its ETag and md5."""
        data = self.read(start, min(start + part_bytes, self.size))
        response = self.client.upload_part(**upload, PartNumber=start // part_bytes + 1, Body=data)
        return str(response["ETag"]), _md5(data)

    def _abort(self, upload: dict[str, str]) -> None:
        try:
            self.client.abort_multipart_upload(**upload)
        except (BotoCoreError, ClientError):
            return  # the failure that led here says more


def read_file(path: Path, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` to `stop`; StorageError if it ends before."""
    with path.open("rb") as stream:
        stream.seek(start)
        data = stream.read(stop - start)
    if len(data) != stop - start:
        raise StorageError("The file was cut while it was uploaded", where=str(path), fix="Upload it when it is complete.")
    return data


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
