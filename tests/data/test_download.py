"""The downloader against a real server that misbehaves, by the answers of its rows."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
import structlog
from bad_server import BadServer, image_for

from drrho_clip.data.download import addresses
from drrho_clip.data.download.fetch import USER_AGENT
from drrho_clip.data.download.limits import DownloadLimits
from drrho_clip.data.download.ordered import Fetched, Job, Spooled, download_in_order
from drrho_clip.data.download.reasons import FETCH_REASONS
from drrho_clip.errors import DataError


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


def limits(**changes: Any) -> DownloadLimits:
    return DownloadLimits(**({"allow_private": True, "backoff": 0.05, "max_bytes": 200_000} | changes))


def download(urls: list[str], expected: dict[str, str] | None = None, **changes: Any) -> dict[str, str]:
    """What became of every URL: "ok", the name of the picture if it is that of the URL, or the reason; in order of arrival."""
    jobs = (Job(number, url, (expected or {}).get(url, "")) for number, url in enumerate(urls))
    found = {}
    for job, answer in download_in_order(jobs, limits(**changes)):
        assert answer is not None
        assert job.url == urls[job.payload]
        if isinstance(answer, Fetched):
            body = answer.load()
            assert answer.fetch.sha256 == sha256(body).hexdigest()
            found[job.url] = "ok" if body == image_for(job.url.rpartition("/")[2]) else "other bytes"
        else:
            assert answer.reason in FETCH_REASONS
            found[job.url] = answer.reason
    return found


@pytest.mark.parametrize(
    ("path", "outcome", "requests"),
    [
        ("image/a", "ok", 1),
        ("status/404", "http_gone", 1),
        ("status/410", "http_gone", 1),
        ("status/401", "http_denied", 1),
        ("status/403", "http_denied", 1),
        ("status/451", "http_denied", 1),
        ("status/418", "http_other", 1),
        ("status/204", "http_other", 1),
        ("status/300", "http_other", 1),
        ("status/408", "http_busy", 3),
        ("status/429", "http_busy", 3),
        ("status/503", "http_busy", 3),
        ("status/500", "http_server", 3),
        ("status/502", "http_server", 3),
        ("once/500/a", "ok", 2),
        ("once/429/a", "ok", 2),
        ("once/404/a", "http_gone", 1),
        ("cut/a", "ok", 2),
        ("loop/a", "redirects", 6),
        ("bomb/a", "too_large", 1),
        ("packed/a", "ok", 1),
        ("huge/a", "too_large", 1),
        ("announced/a", "too_large", 1),
        ("robots/a", "robots", 1),
        ("html/a", "other bytes", 1),
    ],
)
def test_every_misbehaviour_has_its_outcome(server: BadServer, path: str, outcome: str, requests: int) -> None:
    (url,) = server.of(path)
    assert download([url]) == {url: outcome}
    assert server.requests[path] == requests


def test_a_body_longer_than_announced_is_no_image(server: BadServer) -> None:
    """Its start, or a broken connection if the rest comes early."""
    (outcome,) = download(server.of("short/a")).values()
    assert outcome in ("other bytes", "connection")


def test_a_server_that_hangs_up_is_asked_again(server: BadServer) -> None:
    assert set(download(server.of("vanish/a")).values()) == {"connection"}
    assert server.requests["vanish/a"] >= 3


def test_nobody_there(server: BadServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a"
        assert download([url]) == {url: "connection"}


def test_no_row_outlasts_its_time(server: BadServer) -> None:
    """One that says nothing, one that drips a byte now and then for ever; both are over within the limit."""
    urls = server.of("hang/a", "drip/b")
    started = time.monotonic()
    assert download(urls, timeout=0.5, rounds=2) == dict.fromkeys(urls, "timeout")
    assert time.monotonic() - started < 20
    assert server.requests == {"hang/a": 2, "drip/b": 2}


def test_what_is_waited_for_is_said(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drrho_clip.data.download.ordered._REPORT_SECONDS", 0.05)
    with structlog.testing.capture_logs() as logs:
        download([f"{server.url}/hang/a?key=secret"], timeout=0.5, rounds=1)
    said = [entry for entry in logs if entry["event"] == "downloads" and entry["active"]]
    assert said
    assert {entry["oldest"] for entry in said} == {f"{server.url}/hang/a"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url",
        "ftp://127.0.0.1/a",
        "file:///etc/passwd",
        "http://",
        "http://[::1/a",
        "http://a:b/c",
        "http://a\x00b/",
        "\udcff",
    ],
)
def test_what_is_no_url_of_http(url: str) -> None:
    assert download([url]) == {url: "bad_url"}


def test_redirects_are_followed_but_not_out_of_http(server: BadServer) -> None:
    good = f"{server.url}/to/http%3A//127.0.0.1%3A{server.url.rpartition(':')[2]}/image/a"
    relative = f"{server.url}/to/%2Fimage/a"
    assert download([good, relative]) == {good: "ok", relative: "ok"}
    bad = [f"{server.url}/to/{target}" for target in ("file%3A///etc/passwd", "ftp%3A//127.0.0.1/a", "http%3A//%5B%3A%3A1/a")]
    assert download(bad) == dict.fromkeys(bad, "bad_url")


def names(monkeypatch: pytest.MonkeyPatch, known: dict[str, str]) -> list[str]:
    """Let the system know these names and no other; returns a list of what is looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if not host[0].isalpha():
            return real(host, port, *args, **kwargs)
        asked.append(host)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(known[host], port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_names_are_looked_up_once(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, {"here.test": "127.0.0.1"})
    port = server.url.rpartition(":")[2]
    urls = [f"http://here.test:{port}/image/{number}" for number in range(20)] + [
        "http://nowhere.test/a",
        "http://nowhere.test/b",
    ]
    found = download(urls)
    assert list(found.values()) == ["ok"] * 20 + ["dns"] * 2
    assert sorted(asked) == ["here.test", "nowhere.test"]


def test_a_label_that_no_name_can_have() -> None:
    url = f"http://{'a' * 70}.test/"
    assert download([url], rounds=1)[url] in ("dns", "bad_url")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "inside.test",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
    ],
)
def test_nothing_private_is_connected_to(server: BadServer, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    names(monkeypatch, {"inside.test": "127.0.0.1", "localhost": "127.0.0.1"})
    url = f"http://{host}:{server.url.rpartition(':')[2]}/image/a"
    assert download([url], allow_private=False)[url] in ("address", "bad_url")  # some spellings are no URLs for newer libraries
    assert not server.requests


@pytest.mark.parametrize("target", ["127.0.0.2", "169.254.169.254", "inside.test", "[fd00:ec2::254]"])
def test_a_redirect_cannot_lead_to_a_private_address(server: BadServer, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """The server's own address stands for a public one here."""
    names(monkeypatch, {"inside.test": "127.0.0.2"})
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or real(address))
    url = f"{server.url}/to/http%3A//{target}%3A{server.url.rpartition(':')[2]}/image/a"
    plain = f"{server.url}/image/a"
    assert download([url, plain], allow_private=False) == {url: "address", plain: "ok"}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("2001:0:0:0:0:0:80ff:fffe", False),
        ("2001:db8::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert addresses.is_public(address) is public


def test_the_expected_sha256_is_checked(server: BadServer) -> None:
    good, bad = server.of("image/a", "image/b")
    right = sha256(image_for("a")).hexdigest()
    assert download([good, bad], {good: right, bad: right}) == {good: "ok", bad: "sha256"}
    assert server.requests["image/b"] == 1


def test_who_asks_is_said_and_robots_can_be_overruled(server: BadServer) -> None:
    urls = server.of("robots/a")
    assert download(urls, respect_robots=False) == {urls[0]: "ok"}
    assert server.headers[0]["User-Agent"] == USER_AGENT
    assert "drrho-clip" in USER_AGENT


def test_connections_are_used_again_and_few_at_once(server: BadServer) -> None:
    server.delay = lambda path: 0.01
    urls = server.of(*(f"image/{number}" for number in range(40)))
    assert set(download(urls, host_connections=3).values()) == {"ok"}
    assert server.most_at_once <= 3
    assert len(server.connections) <= 6


def test_all_hosts_together_keep_the_limit_of_connections(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {f"h{number}.test": "127.0.0.1" for number in range(10)})
    server.delay = lambda path: 0.05
    port = server.url.rpartition(":")[2]
    urls = [f"http://h{number % 10}.test:{port}/image/{number}" for number in range(30)]
    assert set(download(urls, connections=4).values()) == {"ok"}
    assert server.most_at_once <= 4


@pytest.mark.parametrize("setting", [{"host_delay": 0.05}, {"rate": 20.0}])
def test_requests_keep_their_distance(server: BadServer, setting: dict[str, float]) -> None:
    started = time.monotonic()
    urls = server.of(*(f"image/{number}" for number in range(10)))
    assert set(download(urls, **setting).values()) == {"ok"}
    assert time.monotonic() - started >= 9 * 0.05
    assert [path for path, _ in server.times] == [f"image/{number}" for number in range(10)]


def test_a_busy_host_gets_the_rest_it_asks_for(server: BadServer) -> None:
    (url,) = server.of("busy/a")
    assert download([url]) == {url: "ok"}
    (_, first), (_, second) = server.times
    assert second - first >= 1


def test_rounds_wait_longer_each_time(server: BadServer) -> None:
    download(server.of("status/500"), backoff=0.2, rounds=4)
    gaps = [later - earlier for (_, earlier), (_, later) in pairwise(server.times)]
    assert len(gaps) == 3
    assert all(gap >= least for gap, least in zip(gaps, (0.15, 0.3, 0.6), strict=True))


def test_the_order_is_that_of_the_rows_whatever_the_order_of_arrival(server: BadServer) -> None:
    """Rows that had to be tried again come behind all others, in their own order."""
    delays = random.Random(0)
    server.delay = lambda path: delays.uniform(0, 0.1)
    paths = [f"once/500/{number}" if number % 7 == 3 else f"image/{number}" for number in range(70)]
    urls = server.of(*paths)
    found = download(urls)
    assert set(found.values()) == {"ok"}
    assert list(found) == [url for url in urls if "once" not in url] + [url for url in urls if "once" in url]
    arrived = [path for path, _ in server.times]
    assert len(arrived) == 80


def test_rows_behind_a_slow_one_wait_on_the_disk_and_within_bounds(server: BadServer) -> None:
    release: list[int] = []
    server.delay = lambda path: 1.5 if path == "image/0" else 0.0
    urls = server.of(*(f"image/{number}" for number in range(60)))
    jobs = (Job(number, url) for number, url in enumerate(urls))
    kinds = []
    for job, answer in download_in_order(jobs, limits(window_rows=40, window_memory=2000)):
        if not release:
            release.append(sum(server.requests.values()))
        assert isinstance(answer, Fetched)
        kinds.append(type(answer.load))
        assert answer.load() == image_for(str(job.payload))
    assert release[0] <= 40, "no more than the window was begun"
    assert kinds.count(Spooled) >= 30


def test_bytes_that_wait_are_bounded(server: BadServer) -> None:
    server.delay = lambda path: 1.0 if path == "image/0" else 0.0
    urls = server.of(*(f"image/{number}" for number in range(60)))
    before = None
    for _ in download_in_order((Job(n, url) for n, url in enumerate(urls)), limits(window_bytes=3000, connections=2)):
        before = before or sum(server.requests.values())
    assert before is not None
    assert before < 40
    assert sum(server.requests.values()) == 60


def test_what_the_table_raises_is_raised(server: BadServer) -> None:
    def jobs() -> Iterator[Job]:
        yield Job(0, server.of("image/a")[0])
        raise DataError("The table is broken")

    with pytest.raises(DataError, match="The table is broken"):
        list(download_in_order(jobs(), limits()))


def test_closing_ends_everything_at_once(server: BadServer) -> None:
    urls = server.of("image/a", *(f"hang/{number}" for number in range(30)))
    started = time.monotonic()
    with closing(download_in_order((Job(n, url) for n, url in enumerate(urls)), limits(timeout=60))) as found:
        next(found)
    assert time.monotonic() - started < 30


def test_a_disk_that_refuses_is_one_clear_error(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from drrho_clip.errors import StorageError

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        download(server.of("image/a"), window_memory=0)
