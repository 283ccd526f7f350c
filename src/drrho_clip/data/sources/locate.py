"""Where tars lie: a local folder or pattern, s3:// or http(s)://, and how each comes onto the disk."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from drrho_clip.data.sources.fields import ending_of
from drrho_clip.errors import ConfigError, DataError, ObjectMissing
from drrho_clip.storage import ObjectInfo, Store, open_store

_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")
_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Tar:
    """One tar: how messages call it, and either its local path or a function that fetches it to one."""

    name: str
    path: Path | None = None
    fetch: Callable[[Path], None] | None = None
    version: str = ""  # another one for other bytes; "" = not known
    uri: str = ""  # path or URI, with what gives access to it
    beside: Callable[[str], bytes | None] = lambda ending: None  # what lies beside it, with this ending instead of .tar

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Give a local path; a fetched tar lies in the temporary folder (TMPDIR) until the block ends."""
        if self.fetch is None:
            assert self.path is not None
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="drrho-shard-") as folder:
            path = Path(folder) / "shard.tar"
            self.fetch(path)
            yield path


def find_tars(path: str, store: Store | None = None) -> list[Tar]:
    """List the tars that `path` names: folders (all *.tar below), braces `{000..010}` and `{a,b}`, wildcards (not over http).

    What lies in `store` is read through it. Raises DataError where a named tar is not there, or there is none.
    """
    if path.startswith(("http://", "https://")):
        return _over_http(path)
    tars = _in_store(path, store) if path.startswith("s3://") else _local(path)
    if not tars:
        raise DataError("No .tar is there", where=path, fix="Set `path` to a folder of .tar files or a pattern that names some.")
    return tars


def expand_braces(pattern: str) -> list[str]:
    """Expand `{000..010}` (zeros kept) and `{a,b}`, leftmost first."""
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    first, dots, last = match[1].partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
    else:
        choices = match[1].split(",")
    return [text for choice in choices for text in expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])]


def _local(pattern: str) -> list[Tar]:
    pattern = os.path.expanduser(pattern)
    names = [pattern] if os.path.exists(pattern) else expand_braces(pattern)
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += _tars_below(path)
        elif path.is_file():
            found.append(path)
        else:
            found += sorted(Path(match) for match in glob.glob(name, recursive=True))
    missing = [name for name in names if not os.path.exists(name) and not _WILDCARDS.search(name)]
    _check_missing(missing, len(names))
    return [
        Tar(str(path), path=path, version=str(path.stat().st_size), uri=str(path), beside=partial(_beside, path))
        for path in found
    ]


def _tars_below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    tars = [path for path in files if ending_of(path.name) == ".tar"]
    if not tars:
        endings = Counter(ending_of(path.name) or "files without an ending" for path in files)
        shown = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(8)) or "nothing"
        raise DataError(
            f"No .tar is there, only {shown}", where=str(folder), fix="For images in a folder set `source` to 'folder'."
        )
    return tars


def _in_store(uri: str, store: Store | None) -> list[Tar]:
    if store is None or not uri.startswith(store.uri.rstrip("/") + "/"):
        bucket = uri.removeprefix("s3://").partition("/")[0]
        store = open_store(f"s3://{bucket}")
    pattern = uri.removeprefix(store.uri.rstrip("/")).strip("/")
    names = expand_braces(pattern)
    objects = {info.key: info for info in store.list(re.split(r"[*?[{]", pattern)[0])}
    keys: list[str] = []
    missing = []
    for name in names:
        below = f"{name}/" if name else ""
        matches = [name] if name in objects else [k for k in objects if fnmatch.fnmatchcase(k, name) or k.startswith(below)]
        tars = [key for key in matches if key == name or key.endswith(".tar")]
        keys += tars
        missing += [] if tars else [store.uri_of(name) if name else store.uri]
    _check_missing(missing, len(names))
    return [_stored_tar(store, objects[key]) for key in keys]


def _stored_tar(store: Store, info: ObjectInfo) -> Tar:
    uri = store.uri_of(info.key)
    fetch = partial(store.download, info.key, etag=info.etag)
    return Tar(uri, fetch=fetch, version=info.etag, uri=uri, beside=partial(_beside_stored, store, info.key))


def _over_http(pattern: str) -> list[Tar]:
    from drrho_clip.data.sources.http import download, public_url

    if "*" in pattern:
        raise ConfigError(f"'{public_url(pattern)}' cannot be listed over http", fix="Name the tars by braces: {0000..0099}.tar.")
    return [
        Tar(public_url(url), fetch=partial(download, url), uri=url, beside=partial(_beside_served, url))
        for url in expand_braces(pattern)
    ]


def _beside(path: Path, ending: str) -> bytes | None:
    other = path.with_name(path.name.removesuffix(".tar") + ending)
    return other.read_bytes() if other.is_file() else None


def _beside_stored(store: Store, key: str, ending: str) -> bytes | None:
    try:
        return store.read(key.removesuffix(".tar") + ending)
    except ObjectMissing:
        return None


def _beside_served(url: str, ending: str) -> bytes | None:
    from drrho_clip.data.sources.http import download

    parts = urlsplit(url)
    with tempfile.TemporaryDirectory(prefix="drrho-beside-") as folder:
        path = Path(folder) / "file"
        try:
            download(parts._replace(path=parts.path.removesuffix(".tar") + ending).geturl(), path)
        except DataError:  # the server says that it is not there, or nobody's business
            return None
        return path.read_bytes()


def _check_missing(missing: list[str], total: int) -> None:
    if missing:
        raise DataError(f"{len(missing)} of {total} named tars are not there, first {missing[0]}", fix="Check `path`.")
