"""Uploads in parts: a few in flight, all or nothing, and conditional like a single PUT."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

PART_BYTES = 8 << 20
MOST_PARTS = 10_000
IN_FLIGHT = 4


def upload_parts(client: Any, bucket: str, key: str, path: Path, size: int, *, if_absent: bool) -> str:
    """Upload `size` bytes of a file and return the ETag; the parts of an upload that fails are removed."""
    name = {"Bucket": bucket, "Key": key}
    upload = {**name, "UploadId": client.create_multipart_upload(**name)["UploadId"]}
    part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))

    def send(number: int) -> dict[str, Any]:
        start = (number - 1) * part_bytes
        with path.open("rb") as stream:
            stream.seek(start)
            data = stream.read(min(part_bytes, size - start))
        response = client.upload_part(**upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": response["ETag"]}

    try:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        response = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
    except BaseException:
        _abort(client, upload)
        raise
    return str(response["ETag"]).strip('"')


def _abort(client: Any, upload: dict[str, str]) -> None:
    try:
        client.abort_multipart_upload(**upload)
    except (BotoCoreError, ClientError):
        return  # the failure that led here says more
