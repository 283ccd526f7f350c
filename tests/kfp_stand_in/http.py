"""The HTTP side: paths to objects, pages and filters, tokens, and a server that can go away and come back."""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from kfp_stand_in.execution import Execution, Runner
from kfp_stand_in.objects import Problem, Server, missing

UUID = r"([0-9a-f-]{36})"
V2 = "/apis/v2beta1"
LOG = re.compile(rf"/apis/v1alpha1/runs/{UUID}/nodes/([\w-]+)/log")


class StandIn:
    """A running stand-in; `objects` is what it keeps, `requests` what it was asked (method and path).

    `token_uses`: 0 = no token is needed; else each token, from `new_token` or GET /stand-in/token, is good for so many requests.
    """

    def __init__(
        self, runner: Runner, *, host: str = "127.0.0.1", port: int = 0, token_uses: int = 0, multi_user: bool = False
    ) -> None:
        self.objects = Server(runner, multi_user=multi_user)
        self.requests: list[tuple[str, str]] = []
        self._address = (host, port)
        self._token_uses = token_uses
        self._tokens: dict[str, int] = {}
        self._http: ThreadingHTTPServer | None = None
        self._broken: list[re.Pattern[str]] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        for execution in self.objects.executions.values():
            execution.cancelled.set()

    @property
    def url(self) -> str:
        """What kfp.Client takes as its host."""
        return f"http://{self._address[0]}:{self._address[1]}"

    def start(self) -> None:
        """Listen; on the same port again after `stop`."""
        self._http = ThreadingHTTPServer(self._address, _handler(self))
        self._http.daemon_threads = True
        self._address = (self._address[0], self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Go away; what is kept stays."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def new_token(self) -> str:
        """A token, good for `token_uses` requests."""
        with self.lock:
            token = secrets.token_hex(8)
            self._tokens[token] = self._token_uses
            return token

    def break_answer(self, pattern: str) -> None:
        """Do what the next request of this method and path (`POST /apis/.*runs`) asks, and hang up instead of answering."""
        self._broken.append(re.compile(pattern))

    def execution(self, run_id: str) -> Execution:
        """The execution of a run."""
        return self.objects.executions[run_id]

    def allowed(self, header: str) -> bool:
        """Whether a request's token is good; uses it up."""
        if not self._token_uses:
            return True
        token = header.removeprefix("Bearer ")
        with self.lock:
            self._tokens[token] = self._tokens.get(token, 0) - 1
            return self._tokens[token] >= 0

    def hangs_up(self, request: str) -> bool:
        """Whether the connection breaks instead of an answer."""
        found = next((pattern for pattern in self._broken if pattern.fullmatch(request)), None)
        if found is not None:
            self._broken.remove(found)
        return found is not None


HEALTH = {"commit_sha": "unknown", "tag_name": "unknown", "pipeline_store": "database"}
Query = dict[str, str]
Route = tuple[str, str, Callable[..., dict[str, Any]]]


def _routes(objects: Server) -> list[Route]:
    """Method, path and answer; each answer is a function of the ids in the path, then of the query or body."""
    runs, recurring = f"{V2}/runs", f"{V2}/recurringruns"
    return [
        ("GET", f"{V2}/healthz", lambda query: HEALTH | {"multi_user": objects.multi_user}),
        ("GET", f"{V2}/pipelines", lambda query: _page(objects.pipelines, "pipelines", query)),
        ("GET", f"{V2}/pipelines/{UUID}", lambda found, query: _pipeline(objects, found)),
        ("GET", f"{V2}/pipelines/{UUID}/versions", lambda found, query: _versions(objects, found, query)),
        ("GET", f"{V2}/pipelines/{UUID}/versions/{UUID}", lambda _, found, query: objects.versions[found]),
        ("DELETE", f"{V2}/pipelines/{UUID}/versions/{UUID}", lambda _, found, query: objects.versions.pop(found) and {}),
        ("GET", f"{V2}/experiments", lambda query: _page(objects.experiments, "experiments", query)),
        ("POST", f"{V2}/experiments", lambda body: objects.create_experiment(body)),
        ("GET", runs, lambda query: _page({key: objects.run(key) for key in objects.runs}, "runs", query)),
        ("POST", runs, lambda body: objects.create_run(body)),
        ("GET", f"{runs}/{UUID}", lambda found, query: objects.run(found)),
        ("POST", f"{runs}/{UUID}:terminate", lambda found, body: objects.terminate(found)),
        ("POST", f"{runs}/{UUID}:archive", lambda found, body: objects.runs[found].update(storage_state="ARCHIVED") or {}),
        ("GET", recurring, lambda query: _page(objects.recurring, "recurringRuns", query)),
        ("POST", recurring, lambda body: objects.create_recurring(body)),
        ("GET", f"{recurring}/{UUID}", lambda found, query: objects.find_recurring(found)),
        ("POST", f"{recurring}/{UUID}:disable", lambda found, body: objects.set_mode(found, "DISABLE")),
        ("POST", f"{recurring}/{UUID}:enable", lambda found, body: objects.set_mode(found, "ENABLE")),
        ("DELETE", f"{recurring}/{UUID}", lambda found, body: objects.recurring.pop(found) and {}),
    ]  # fmt: skip


def _pipeline(objects: Server, found: str) -> dict[str, Any]:
    if found not in objects.pipelines:
        text = f"Failed to get a pipeline {found}. Check error stack: Failed to get a pipeline with id {found}: "
        raise missing("Pipeline", found, text)
    return objects.pipelines[found]


def _versions(objects: Server, pipeline: str, query: Query) -> dict[str, Any]:
    return _page(
        {key: item for key, item in objects.versions.items() if item["pipeline_id"] == pipeline}, "pipeline_versions", query
    )


def _page(items: dict[str, dict[str, Any]], name: str, query: Query) -> dict[str, Any]:
    """One page of a listing; an empty listing is an empty object."""
    found = list(items.values())
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        assert predicate["operation"] in (1, "EQUALS")
        found = [item for item in found if item[predicate["key"]] == predicate["stringValue"]]
    if experiment := query.get("experiment_id"):
        found = [item for item in found if item["experiment_id"] == experiment]
    if query.get("sort_by") == "created_at desc":
        found.reverse()
    first = int(base64.b64decode(query.get("page_token") or b"MA=="))
    size = int(query.get("page_size") or 20)
    if not found:
        return {}
    answer: dict[str, Any] = {name: found[first : first + size], "total_size": len(found)}
    if first + size < len(found):
        answer["next_page_token"] = base64.b64encode(str(first + size).encode()).decode()
    return answer


def _upload(objects: Server, path: str, query: Query, text: str) -> dict[str, Any]:
    facts = {"description": query["description"]} if query.get("description") else {}
    if path.endswith("/upload"):
        return objects.upload(query["name"], text, **facts)
    return objects.upload_version(query["pipelineid"], query["name"], text, **facts)


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    routes = _routes(stand_in.objects)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            stand_in.connections.add(self.connection)

        def finish(self) -> None:
            stand_in.connections.discard(self.connection)
            with suppress(OSError):
                super().finish()

        def log_message(self, *arguments: Any) -> None:
            pass

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stand_in.requests.append((self.command, parts.path))
            try:
                with stand_in.lock:
                    answer = self._answer(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), body)
                status = 200
            except Problem as problem:
                status, answer = problem.status, problem.body
            if stand_in.hangs_up(f"{self.command} {parts.path}"):
                self.close_connection = True
                return
            text = answer if isinstance(answer, str) else json.dumps(answer)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def _answer(self, path: str, query: Query, body: bytes) -> dict[str, Any] | str:
            if path == "/stand-in/token":
                return stand_in.new_token()
            if not stand_in.allowed(self.headers.get("Authorization", "")):
                raise Problem(401, "Request header error: there is no user identity header", "Unauthenticated: ", code=16)
            if found := LOG.fullmatch(path):
                return _log(stand_in, *found.groups())
            if path in (f"{V2}/pipelines/upload", f"{V2}/pipelines/upload_version"):
                return _upload(stand_in.objects, path, query, _form(self.headers["Content-Type"], body))
            for method, pattern, answer in routes:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    return answer(*match.groups(), query if method == "GET" else json.loads(body or b"{}"))
            raise Problem(404, "Not Found", code=5)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    return Handler


def _log(stand_in: StandIn, run_id: str, pod: str) -> str:
    try:
        return stand_in.execution(run_id).read_log(pod)
    except LookupError:
        problem = Problem(500, "")
        problem.body = {"error_message": f"Failed to read logs for run {run_id}: pods '{pod}' not found", "error_details": "..."}
        raise problem from None


def _form(content_type: str, body: bytes) -> str:
    """The one file of a multipart form."""
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    (part,) = message.get_payload()
    content: bytes = part.get_payload(decode=True)
    return content.decode()
