"""Downloads beside the work of this process, given in the order of the rows whatever the order of arrival.

A row that fails for a passing reason goes to the next round, behind all rows of its own; so the order is that of (round, row) and
depends on the answers alone. Rows that are there wait for the slow ones before them, in memory first, then on the disk; when that
is full nothing new is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import queue
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from yarl import URL

from drrho_clip.data.download.fetch import Fetcher, FetchError, parse_url
from drrho_clip.data.download.limits import DownloadLimits
from drrho_clip.data.download.politeness import Politeness
from drrho_clip.data.download.reasons import PASSING_REASONS
from drrho_clip.data.sources.base import Fetch, Held
from drrho_clip.data.sources.http import public_url
from drrho_clip.observe import get_logger
from drrho_clip.storage.files import disk_errors

_CHUNK = 64  # rows taken from the table, and given, at once
_DNS_THREADS = 32
_LONGEST_WAIT = 300.0  # seconds that a server may ask a row to wait
_REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Job:
    """One row: what the caller knows of it, and its URL (None: it only keeps its place)."""

    payload: Any
    url: str | None
    sha256: str = ""  # of the expected bytes, in hexadecimal; "" = not known
    attempt: int = 1
    due: float = 0.0  # on the clock of `time.monotonic`


@dataclass(frozen=True)
class Fetched:
    """The bytes are there: `load` gives them, once."""

    load: Held | Spooled
    fetch: Fetch


@dataclass(frozen=True)
class Failed:
    """No bytes, for a reason of FETCH_REASONS."""

    reason: str
    detail: str
    fetch: Fetch


@dataclass(frozen=True)
class Spooled:
    """A `load` for bytes that wait in a temporary file."""

    path: Path

    def __call__(self) -> bytes:
        """Read the file and remove it."""
        data = self.path.read_bytes()
        self.path.unlink()
        return data


Answer = Fetched | Failed | None
Done = tuple[Job, Answer]


def download_in_order(jobs: Iterator[Job], limits: DownloadLimits) -> Generator[Done, None, None]:
    """Yield every job with its answer (None where it has no URL); the work goes on in a thread until the generator is closed.

    `jobs` is read in a thread as well. What it raises is raised here.
    """
    with tempfile.TemporaryDirectory(prefix="drrho-download-") as folder:
        downloads = _Downloads(jobs, limits, Path(folder))
        thread = threading.Thread(target=downloads.run, name="downloads", daemon=True)
        thread.start()
        try:
            while (batch := downloads.out.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                for slot in batch:
                    yield slot.job, slot.answer
                downloads.taken(batch)
        finally:
            downloads.stop()
            thread.join()


@dataclass(eq=False)
class _Slot:
    """The place of one row in the order."""

    job: Job
    answer: Answer = None
    again: Job | None = None  # for the next round
    done: bool = False
    size: int = 0


class _Downloads:
    """The work of the thread: one event loop."""

    def __init__(self, jobs: Iterator[Job], limits: DownloadLimits, folder: Path) -> None:
        self._jobs, self._limits, self._folder = jobs, limits, folder
        self.out: queue.SimpleQueue[list[_Slot] | BaseException | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._window: deque[_Slot] = deque()
        self._given = 0  # rows handed out and not yet taken
        self._active = 0  # rows that wait for their turn or their answer
        self._held = self._memory = self._spooled = 0  # bytes that wait, those of them in memory; files made so far
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Do everything, then say that it is the end, or why it could not be done."""
        asyncio.set_event_loop(self._loop)
        lookups = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="names")
        self._loop.set_default_executor(lookups)
        self._wake, self._reader = asyncio.Event(), ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._task = self._loop.create_task(self._all_rounds())
        end: BaseException | None = None
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            end = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        finally:
            for pool in (lookups, self._reader):
                pool.shutdown(wait=False, cancel_futures=True)
            self._loop.close()
            self.out.put(end)

    def stop(self) -> None:
        """End the work; called by the other thread."""
        self._call(lambda: self._task and self._task.cancel())

    def taken(self, batch: list[_Slot]) -> None:
        """Say that the other thread has used these."""
        self._call(lambda: self._release(batch))

    def _call(self, function: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: all is done
            self._loop.call_soon_threadsafe(function)

    def _release(self, batch: list[_Slot]) -> None:
        self._given -= len(batch)
        for slot in batch:
            self._held -= slot.size
            if isinstance(slot.answer, Fetched) and isinstance(slot.answer.load, Held):
                self._memory -= slot.size
        self._wake.set()

    async def _all_rounds(self) -> None:
        self._polite = Politeness(self._limits)
        jobs = self._jobs
        async with Fetcher(self._limits) as fetcher, asyncio.TaskGroup() as tasks:
            report = tasks.create_task(self._report())
            for number in range(1, self._limits.rounds + 1):
                later = self._folder / f"round-{number + 1}"
                with later.open("wb") as self._later:
                    await self._round(jobs, fetcher, tasks)
                if not later.stat().st_size:
                    break
                jobs = _read(later)
            report.cancel()

    async def _round(self, jobs: Iterator[Job], fetcher: Fetcher, tasks: asyncio.TaskGroup) -> None:
        take = lambda: list(itertools.islice(jobs, _CHUNK))  # noqa: E731
        while chunk := await self._loop.run_in_executor(self._reader, take):
            for job in chunk:
                await self._until(self._has_room)
                slot = _Slot(job)
                self._window.append(slot)
                if job.url is None:
                    self._finish(slot)
                else:
                    self._active += 1
                    tasks.create_task(self._serve(slot, job.url, fetcher))
        await self._until(lambda: not self._window)

    def _has_room(self) -> bool:
        limits = self._limits
        return (
            self._active < limits.waiting
            and len(self._window) < limits.window_rows
            and self._given < limits.ready
            and self._held < limits.window_bytes
        )

    async def _until(self, condition: Any) -> None:
        while not condition():
            self._wake.clear()
            await self._wake.wait()

    async def _serve(self, slot: _Slot, address: str, fetcher: Fetcher) -> None:
        job = slot.job
        try:
            url = parse_url(address)
            await asyncio.sleep(max(0.0, job.due - time.monotonic()))
            body, fetch = await self._attempt(job, url, fetcher)
            slot.answer, slot.size = Fetched(self._hold(body), fetch), len(body)
        except FetchError as error:
            slot.answer = Failed(error.reason, error.detail, Fetch(address, error.status, job.attempt))
            if error.reason in PASSING_REASONS and job.attempt < self._limits.rounds:
                slot.again = replace(job, attempt=job.attempt + 1, due=time.monotonic() + self._wait(job, error))
        self._active -= 1
        self._finish(slot)

    async def _attempt(self, job: Job, url: URL, fetcher: Fetcher) -> tuple[bytes, Fetch]:
        host = str(url.host)
        async with self._polite.turn(host):
            try:
                body, status = await fetcher.fetch(url, keep=self._polite.is_wanted(host))
            except FetchError as error:
                if error.retry_after and error.reason == "http_busy":
                    self._polite.pause(host, error.retry_after)
                raise
        digest = sha256(body).hexdigest()
        if job.sha256 and digest != job.sha256:
            raise FetchError("sha256", f"is {digest}, the table says {job.sha256}", status=status)
        return body, Fetch(str(job.url), status, job.attempt, digest)

    def _wait(self, job: Job, error: FetchError) -> float:
        backoff = self._limits.backoff * 2.0 ** (job.attempt - 1) * random.uniform(0.75, 1.25)
        return max(backoff, min(error.retry_after, _LONGEST_WAIT))

    def _hold(self, body: bytes) -> Held | Spooled:
        self._held += len(body)
        if self._memory + len(body) <= self._limits.window_memory:
            self._memory += len(body)
            return Held(body)
        path = self._folder / f"body-{self._spooled}"
        self._spooled += 1
        with disk_errors(path):
            path.write_bytes(body)
        return Spooled(path)

    def _finish(self, slot: _Slot) -> None:
        """Mark a row as done and hand out all that are done at the front."""
        slot.done = True
        batch = []
        while self._window and self._window[0].done:
            first = self._window.popleft()
            if first.again is not None:
                pickle.dump(first.again, self._later)
            else:
                batch.append(first)
        self._given += len(batch)
        for start in range(0, len(batch), _CHUNK):  # in pieces, so that new rows start while they are taken
            self.out.put(batch[start : start + _CHUNK])
        self._wake.set()

    async def _report(self) -> None:
        """Say now and then what is waited for: a row that hangs shows up here until its time is over."""
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            first = next((slot.job for slot in self._window if not slot.done), None)
            with contextlib.suppress(ValueError):  # a malformed URL is about to fail anyway
                oldest = {"oldest": public_url(str(first.url)), "attempt": first.attempt} if first else {}
                get_logger().info("downloads", active=self._active, behind=len(self._window), bytes_waiting=self._held, **oldest)


def _read(path: Path) -> Iterator[Job]:
    with path.open("rb") as stream, contextlib.suppress(EOFError):
        while True:
            yield pickle.load(stream)
