"""The one place that builds the S3 client, and the one place that turns its errors into ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as aws
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider

from drrho_clip.errors import ObjectChanged, ObjectMissing, StorageError

ATTEMPTS = 4
PATIENT_ATTEMPTS = 9
"""Within some two minutes, each pause up to twice the one before: for work that should outlast the restart of a server."""

_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed"}
_FORBIDDEN = {"AccessDenied", "403", "Forbidden"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
_CHANGED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_NO_CREDENTIALS = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)
_NO_SERVER = (aws.ConnectionError, aws.HTTPClientError)


class Connection:
    """The client of this process, built on first use and again after a fork; only its absence is pickled.

    A request that fails for a passing reason is sent ATTEMPTS times in all, a `patient` one PATIENT_ATTEMPTS times, unless
    AWS_MAX_ATTEMPTS says otherwise.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self._built: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"patient": self.patient, "_built": None}

    @property
    def client(self) -> Any:
        """The boto3 client of this process (thread-safe)."""
        return self._get()[1]

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        return str(self.client.meta.endpoint_url)

    @property
    def identity(self) -> str:
        """Whose credentials are used: the first characters of the access key id, never the secret."""
        return self._get()[2]

    def _get(self) -> tuple[int, Any, str]:
        # Two threads may both build one; each is whole, and the last stays.
        if self._built is None or self._built[0] != os.getpid():
            self._built = (os.getpid(), *_build(patient=self.patient))
        return self._built

    @contextmanager
    def errors(self, uri: str) -> Iterator[None]:
        """Raise what goes wrong inside as StorageError that names object, endpoint, credentials and what to do."""
        try:
            yield
        except (aws.ClientError, aws.BotoCoreError) as error:
            where = f"{uri} at {self.endpoint}, {self.identity}"
            raise _translate(error, where) from error


def make_client(
    session: boto3.session.Session, endpoint: str | None, region: str, *, direct: bool = False, patient: bool = False
) -> Any:
    """Return an S3 client for an endpoint (None = AWS) with settings that are safe for it; `direct` = past any proxy."""
    config = _client_config(foreign=bool(endpoint), direct=direct, patient=patient)
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=config)


def _build(*, patient: bool) -> tuple[Any, str]:
    try:
        core = botocore.session.get_session()
        endpoint = _configured_endpoint(core)
        session = boto3.session.Session(botocore_session=core)
        region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
        client = make_client(session, endpoint, region, patient=patient)
        credentials = session.get_credentials()
    except (aws.BotoCoreError, ValueError) as error:
        raise StorageError(f"The AWS settings cannot be used: {error}", fix="Check the AWS_* variables and ~/.aws.") from error
    if credentials is None:
        return client, "no credentials"
    return client, f"access key {(credentials.access_key or '')[:4]}... from {credentials.method}"


def _configured_endpoint(core: Any) -> str | None:
    """Return the endpoint of the environment or the profile, None for AWS itself; refuse one that carries a password."""
    provider = ConfiguredEndpointProvider(full_config=core.full_config, scoped_config=core.get_scoped_config(), client_name="s3")
    endpoint: str | None = provider.provide()
    if not endpoint:
        return None
    parts = urlsplit(endpoint)
    if parts.username is not None or parts.password is not None:
        raise StorageError(
            "The endpoint URL carries a user name or password",
            where=f"host {parts.hostname}",
            fix="Put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, only http(s)://host:port into the endpoint.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StorageError(f"The endpoint '{endpoint}' is no http(s) address", fix="Set AWS_ENDPOINT_URL to http(s)://host:port.")
    return endpoint


def _client_config(*, foreign: bool, direct: bool, patient: bool = False) -> Config:
    # "standard" gives up for all threads together once a hundred requests have failed, which many readers soon have.
    mode, attempts = ("legacy", PATIENT_ATTEMPTS) if patient else ("standard", ATTEMPTS)
    settings: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": 30,
        "max_pool_connections": 32,
        "tcp_keepalive": True,
        "retries": {"mode": mode, "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", attempts))},
    }
    if direct:
        settings["proxies"] = {}
    if foreign:
        # Other servers may store AWS's checksum trailers inside the object, and seldom have a DNS name per bucket.
        settings |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        settings["s3"] = {"addressing_style": "path"}
    return Config(**settings)


def _translate(error: Exception, where: str) -> StorageError:
    if isinstance(error, aws.ClientError):
        return _translate_refusal(error, where)
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError(
            "There are no credentials for the object store", where=where, fix="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if isinstance(error, _NO_SERVER):
        return StorageError(
            f"The object store does not answer ({type(error).__name__})",
            where=where,
            fix="Check that the server runs and that AWS_ENDPOINT_URL names it.",
        )
    return StorageError(f"The object store cannot be used: {error}", where=where)


def _translate_refusal(error: aws.ClientError, where: str) -> StorageError:
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))  # the HTTP status where the answer had no body
    if code == "NoSuchBucket":
        return StorageError("There is no such bucket", where=where, fix="Create the bucket, or correct its name or the endpoint.")
    if code in _MISSING:
        return ObjectMissing("There is no such object", where=where)
    if code in _CHANGED:
        return ObjectChanged("The object is not, or no longer, the version that was expected", where=where)
    if code in _REFUSED:
        fix = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and that they belong to this endpoint."
        return StorageError(f"The object store does not know these credentials ({code})", where=where, fix=fix)
    if code in _FORBIDDEN:
        fix = "Give this access key the right to read, write, list and delete there, or use other credentials."
        return StorageError("The object store forbids this", where=where, fix=fix)
    if code == "RequestTimeTooSkewed":
        return StorageError("The clock of this machine differs too much from the store's", where=where, fix="Set the clock.")
    return StorageError(f"The object store refused: {code} {details.get('Message', '')}".rstrip(), where=where)
