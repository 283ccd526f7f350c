"""The S3 store against a real server: broken networks, wrong settings, many keys."""

from __future__ import annotations

import http.server
import json
import pickle
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from fault_proxy import FaultProxy

from drrho_clip.errors import ObjectChanged, ObjectMissing, StorageError
from drrho_clip.storage import Store, open_store, ranged, s3_client
from drrho_clip.storage.s3 import S3Store
from drrho_pipelines.seaweed import SeaweedServer

MIB = 1 << 20
EVERY_USE: list[Callable[[Store], object]] = [
    lambda store: store.read("a"),
    lambda store: store.read_range("a", 0, 1),
    lambda store: store.head("a"),
    lambda store: store.write("a", b"1"),
    lambda store: store.upload("a", __file__),
    lambda store: list(store.list()),
    lambda store: store.probe(),
]


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def only_error(use: Callable[[], object], seconds: float = 12.0) -> StorageError:
    """Return the one StorageError that `use` must end with, in good time."""
    begun = time.monotonic()
    with pytest.raises(StorageError) as raised:
        use()
    assert time.monotonic() - begun < seconds
    return raised.value


@pytest.fixture
def proxy(s3_environment: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server, to which this process's environment leads."""
    with FaultProxy(int(s3_environment.endpoint.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.fixture
def far_store(proxy: FaultProxy, seaweed: SeaweedServer) -> S3Store:
    """An empty store behind the proxy."""
    return S3Store(seaweed.bucket, uuid.uuid4().hex)


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("after", [1, 700, 100_000, 5_000_000])
def test_a_cut_connection_is_resumed(far_store: Store, proxy: FaultProxy, tmp_path: Path, reset: bool, after: int):
    data = some_bytes(9 * MIB)
    far_store.write("a", data)
    proxy.cut(after=after, reset=reset)
    far_store.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert proxy.cuts == 1


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_many_cuts_in_one_object_are_resumed(far_store: Store, proxy: FaultProxy, reset: bool):
    data = some_bytes(9 * MIB)
    far_store.write("a", data)
    proxy.cut(after=1_500_000, reset=reset, times=5)
    assert far_store.read("a") == data
    assert proxy.cuts == 5
    proxy.cut(after=1_500_000, reset=reset, times=2)
    assert far_store.read_range("a", 1_000_001, 6_000_000) == data[1_000_001:7_000_001]
    assert proxy.cuts == 7


def test_a_network_that_stays_broken_ends_the_reading(far_store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranged, "LONGEST_PAUSE", 0.01)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    far_store.write("a", some_bytes(9 * MIB))
    stream = far_store.open("a")
    stream.read(MIB)
    proxy.cut(after=1, reset=True, times=1_000_000)
    error = only_error(stream.read)
    assert "times in a row" in str(error)
    assert far_store.uri_of("a") in str(error)


def test_an_object_replaced_between_two_connections_is_never_mixed(s3_store: Store, far_store: Store, proxy: FaultProxy):
    far_store.write("a", some_bytes(30 * MIB))
    proxy.cut(after=3_000_000, reset=False)  # a reset could throw away bytes before the first MiB has been read
    with far_store.open("a") as stream:
        first = stream.read(MIB)
        open_store(far_store.uri).write("a", some_bytes(30 * MIB, seed=1))
        with pytest.raises(ObjectChanged, match="a at http"):
            stream.read()
    assert first == some_bytes(30 * MIB)[:MIB]
    assert proxy.cuts == 1


@pytest.mark.parametrize("size", [1000, 9 * MIB], ids=["one request", "parts"])
def test_an_upload_over_a_broken_connection(far_store: Store, proxy: FaultProxy, tmp_path: Path, size: int):
    (tmp_path / "a").write_bytes(some_bytes(size))
    far_store.head("a")
    proxy.cut(after=30, reset=True, times=2)
    far_store.upload("a", tmp_path / "a", if_absent=True)
    assert proxy.cuts == 2
    assert far_store.read("a") == some_bytes(size)


def test_an_own_write_whose_answer_was_lost_is_no_conflict(far_store: Store, proxy: FaultProxy):
    """The repeated request is refused, because the first one succeeded."""
    proxy.cut(after=60, reset=True)  # past "100 Continue", within the answer
    info = far_store.write("a", b"mine", if_absent=True)
    assert proxy.cuts == 1
    proxy.cut(after=60, reset=True)
    assert far_store.write("a", b"mine too", if_match=info.etag).size == 8
    assert proxy.cuts == 2
    assert far_store.read("a") == b"mine too"
    proxy.cut(after=60, reset=True)
    with pytest.raises(ObjectChanged):
        far_store.write("a", b"another's", if_absent=True)
    assert proxy.cuts == 3


def test_a_large_object_is_written_in_parts_over_a_broken_connection(
    far_store: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("drrho_clip.storage.s3.LARGEST_PUT", 1 << 20)
    data = some_bytes(20 * MIB)
    far_store.head("a")
    proxy.cut(after=30, reset=True, times=2)
    info = far_store.write("a", memoryview(data))
    assert info.etag.endswith("-3")
    assert far_store.read("a", etag=info.etag) == data


@pytest.mark.parametrize("use", EVERY_USE[:-1])
def test_a_server_that_asks_for_patience_gets_it(far_store: S3Store, proxy: FaultProxy, use: Callable[[Store], object]):
    far_store.write("a", b"1")
    proxy.refuse("503 Service Unavailable", "SlowDown", times=2)
    use(far_store)
    assert proxy.refusals == 2


@pytest.mark.parametrize("use", [lambda store: store.read("a"), lambda store: store.head("a")], ids=["read", "head"])
def test_a_server_that_is_never_ready_is_one_error(far_store: S3Store, proxy: FaultProxy, use: Callable[[Store], object]):
    far_store.write("a", b"1")
    proxy.refuse("503 Service Unavailable", "SlowDown", times=1000)
    error = only_error(lambda: use(far_store), seconds=60)
    assert "refused: SlowDown" in str(error) or "refused: 503 Service Unavailable" in str(error)  # no body answers HEAD
    assert f"{far_store.uri}" in str(error)


def test_a_request_without_an_answer_is_sent_again(far_store: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch):
    settings = s3_client._client_config(foreign=True, direct=False)
    quick = settings.merge(Config(read_timeout=1))
    monkeypatch.setattr(s3_client, "_client_config", lambda **_: quick)
    far_store.write("a", b"1")
    proxy.stall(times=2)
    assert far_store.read("a") == b"1"
    assert proxy.stalls == 2


def test_credentials_that_run_out_are_renewed(
    s3_store: S3Store, seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Keys from a program, as from a role: those that the server no longer takes are an error, the next ones work."""
    keys = {name: seaweed.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in keys:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/keys.json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    def give(access_key: str, secret_key: str, minutes: float) -> None:
        until = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        given = {"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key, "Expiration": until}
        (tmp_path / "keys.json").write_text(json.dumps(given))

    store = S3Store(s3_store.bucket, s3_store.prefix)
    give(*keys.values(), minutes=5)  # renewed before each request: less than ten minutes are left
    store.write("a", b"1")
    give("AKIAOLD", "no longer taken", minutes=5)
    assert "does not know these credentials" in str(only_error(lambda: store.read("a")))
    give(*keys.values(), minutes=60)
    assert store.read("a") == b"1"


def test_an_own_large_upload_whose_answer_was_lost_is_no_conflict(far_store: S3Store, proxy: FaultProxy, tmp_path: Path):
    (tmp_path / "a").write_bytes(some_bytes(9 * MIB))
    events = far_store.connection.client.meta.events
    events.register(
        "before-send.s3.CompleteMultipartUpload", lambda **_: proxy.cut(after=30, reset=True) if not proxy.cuts else None
    )
    far_store.upload("a", tmp_path / "a", if_absent=True)
    assert proxy.cuts == 1
    assert far_store.read("a") == some_bytes(9 * MIB)


def test_an_upload_that_another_wrote_over_has_lost(s3_store: S3Store, tmp_path: Path):
    """What a server that checks a condition before it completes lets happen: the answer is 200, and the object another's."""
    (tmp_path / "file").write_bytes(some_bytes(9 * MIB))
    events = s3_store.connection.client.meta.events
    events.register("after-call.s3.CompleteMultipartUpload", lambda **_: s3_store.write("big", b"other"), unique_id="late")
    try:
        with pytest.raises(ObjectChanged, match=r"Another upload of this object won.*big"):
            s3_store.upload("big", tmp_path / "file", if_absent=True)
    finally:
        events.unregister("after-call.s3.CompleteMultipartUpload", unique_id="late")
    assert s3_store.read("big") == b"other"


def test_a_failed_upload_leaves_no_parts(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(some_bytes(9 * MIB))
    s3_store.write("a", b"here first")
    with pytest.raises(ObjectChanged):
        s3_store.upload("a", tmp_path / "a", if_absent=True)
    uploads = s3_store.connection.client.list_multipart_uploads(Bucket=s3_store.bucket).get("Uploads", [])
    assert [upload for upload in uploads if upload["Key"].startswith(s3_store.prefix)] == []
    assert s3_store.read("a") == b"here first"


@pytest.mark.parametrize("page_size", [7, 1000])
def test_no_key_is_lost_between_pages(s3_environment: SeaweedServer, many_keys: tuple[str, list[str]], page_size: int):
    prefix, keys = many_keys
    store = S3Store(s3_environment.bucket, prefix, page_size=page_size)
    assert [info.key for info in store.list()] == keys
    assert [info.key for info in store.list("part-1/")] == [key for key in keys if key.startswith("part-1/")]


def test_pages_of_one_key(s3_environment: SeaweedServer, many_keys: tuple[str, list[str]]):
    prefix, keys = many_keys
    store = S3Store(s3_environment.bucket, prefix, page_size=1)
    assert [info.key for info in store.list("part-1/00000")] == [key for key in keys if key.startswith("part-1/00000")]


@pytest.fixture(scope="module")
def many_keys(seaweed: SeaweedServer) -> tuple[str, list[str]]:
    """Prefix and sorted keys of 2,500 small objects in nested folders."""
    prefix = uuid.uuid4().hex
    keys = sorted(f"part-{number % 3}/{number // 500:05d}/{number:06d}.tar" for number in range(2500))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environment.items():
            patch.setenv(name, value)
        store = S3Store(seaweed.bucket, prefix)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.write(key, key.encode()), keys))
    return prefix, keys


def test_a_bucket_with_a_dot(s3_store: S3Store):
    bucket = f"drrho.test-{uuid.uuid4().hex[:8]}"
    s3_store.connection.client.create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}")
    store.probe()
    store.write("folder/a", b"1")
    assert [info.key for info in store.list()] == ["folder/a"]
    assert store.uri_of("folder/a") == f"s3://{bucket}/folder/a"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "NOBODYWITHTHISKEY", "InvalidAccessKeyId"),
    ],
)
@pytest.mark.parametrize("use", EVERY_USE)
def test_wrong_credentials(s3_store: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str, use: Any):
    monkeypatch.setenv(name, value)
    text = str(only_error(lambda: use(s3_store)))
    assert "credentials" in text or "forbids" in text
    assert "wrong-secret" not in text
    assert "NOBODYW" not in text


@pytest.mark.parametrize("use", EVERY_USE)
def test_no_credentials(s3_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: Any):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    error = only_error(lambda: use(s3_store))
    assert error.what == "There are no credentials for the object store"
    assert "AWS_ACCESS_KEY_ID" in error.fix


@pytest.mark.parametrize("use", EVERY_USE)
def test_no_bucket(s3_environment: SeaweedServer, use: Any):
    error = only_error(lambda: use(open_store("s3://no-such-bucket/prefix")))
    assert error.what == "There is no such bucket"
    assert not isinstance(error, ObjectMissing)
    assert "s3://no-such-bucket/prefix" in error.where
    assert s3_environment.endpoint in error.where
    assert s3_environment.environment["AWS_ACCESS_KEY_ID"][:4] in error.where


@pytest.mark.parametrize("use", EVERY_USE[:1] + EVERY_USE[3:4] + EVERY_USE[5:6])
def test_no_server(s3_store: Store, monkeypatch: pytest.MonkeyPatch, use: Any):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    error = only_error(lambda: use(s3_store))
    assert "does not answer" in error.what
    assert "http://127.0.0.1:1" in error.where
    assert "AWS_ENDPOINT_URL" in error.fix


@pytest.mark.parametrize("use", EVERY_USE)
def test_a_server_of_another_kind(s3_store: Store, monkeypatch: pytest.MonkeyPatch, use: Any):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    try:
        assert f"127.0.0.1:{server.server_port}" in only_error(lambda: use(s3_store)).where
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("endpoint", ["http://user:sesame@127.0.0.1:1", "http://sesame@127.0.0.1:1"])
def test_an_endpoint_with_a_password_is_refused(s3_store: Store, monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    error = only_error(lambda: s3_store.read("a"), seconds=2)
    assert "carries a user name or password" in error.what
    assert "sesame" not in str(error)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:8333", "ftp://127.0.0.1", "http://", "not an address"])
def test_an_endpoint_that_is_none_is_refused(s3_store: Store, monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    assert endpoint in str(only_error(lambda: s3_store.read("a"), seconds=2))


def test_the_endpoint_may_stand_in_the_profile(
    s3_store: Store, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    s3_store.write("a", b"by the environment")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {seaweed.endpoint}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert s3_store.read("a") == b"by the environment"


def test_the_secret_is_never_kept_or_shown(s3_store: S3Store, seaweed: SeaweedServer):
    secret = seaweed.environment["AWS_SECRET_ACCESS_KEY"]
    s3_store.write("a", b"1")
    with pytest.raises(ObjectMissing) as raised:
        s3_store.read("missing")
    error = raised.value
    shown = [str(error), repr(error), str(error.__cause__), repr(s3_store), str(vars(s3_store)), repr(vars(s3_store.connection))]
    assert not any(secret in text for text in shown)
    for thing in (s3_store, error):
        assert secret.encode() not in pickle.dumps(thing)


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "http://host/x", "s3://", "s3://key:sesame@bucket/x", "s3://bucket/../x"])
def test_uris_that_are_no_store(uri: str):
    assert "sesame" not in str(only_error(lambda: open_store(uri), seconds=2))
