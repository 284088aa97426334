"""The double over HTTP, on loopback: GitHub's paths at the root and under `/api/v3`, its own under `/_double`.

Files are uploaded under `/api/uploads`, as at GitHub Enterprise; github.com has another host for that.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from doubles.faults import Faults
from doubles.github import issue_routes, pull_routes, ref_routes, repository_routes  # they register their routes
from doubles.github.contract import AnswerDoesNotFit, Operation, check_answer, operation, request_faults, takes_a_file
from doubles.github.documents import Documents
from doubles.github.double_faults import Fault, read_fault
from doubles.github.release_routes import leave_half_uploaded
from doubles.github.repository_git import Repository
from doubles.github.routes import ROUTES, Answer, Refused, Request, World, not_found, require_access
from doubles.github.state import Account, load, save
from doubles.threaded_server import LoopbackServer, QuietHandler

API_VERSIONS = ("2022-11-28", "2026-03-10")
_LIMIT = 5000


class GitHubDouble(LoopbackServer):
    """One repository. Each token stands for an account; the double refuses any other."""

    def __init__(
        self, *, directory: Path, name: str, tokens: dict[str, Account], port: int = 0, state_file: Path | None = None
    ) -> None:
        """directory: the Git repository, bare or not. Raises OSError when it cannot listen."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.name = name
        self.tokens = tokens
        self.faults = Faults(read_fault)
        self.violations: list[str] = []
        """Requests that GitHub's description does not allow, or that the double does not serve."""
        self.broken: list[str] = []
        """Answers of the double that GitHub would not give."""
        self.requests: list[str] = []
        self.meanwhile: Callable[[str, str], None] = lambda _method, _path: None
        """Is called when a request has come, before it is looked at: somebody else's work, in between."""
        self._state_file = state_file
        self._lock = threading.RLock()
        git = Repository(directory)
        state = load(state_file)
        state.logins.update({account.login: account for account in tokens.values()})
        default_branch = git.text("symbolic-ref", "--short", "HEAD")
        self.world = World(state, git, Documents(self.url, name, default_branch, state, git))

    def add_fork(self, name: str, directory: Path) -> None:
        """A pull request's head may then be `owner:branch` of it."""
        self.world.forks[name] = Repository(directory)

    def answer(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any, *, uploads: bool = False
    ) -> Answer:
        """GitHub's answer, checked against its description. uploads: whether it was the address of uploads."""
        with self._lock:
            asked = operation(method, path, uploads=uploads)
            try:
                answer = self._answer(asked, method, path, query, body, headers)
                if method != "GET":
                    save(self.world.state, self._state_file)
            except Refused as refused:
                answer = Answer(refused.status, refused.document, refused.headers)
            except NotImplementedError as error:
                self.violations.append(f"{method} {path}: {error}")
                return Answer(501, {"message": str(error)})
            if asked is not None and answer.file is None:
                check_answer(asked, answer.status, answer.document)
            return answer

    def halve_upload(self, identity: int) -> None:
        with self._lock:
            leave_half_uploaded(self.world, identity)
            save(self.world.state, self._state_file)

    def _answer(
        self, asked: Operation | None, method: str, path: str, query: dict[str, str], body: bytes, headers: Any
    ) -> Answer:
        if asked is None:
            self.violations.append(f"{method} {path}: GitHub has no such operation, or the double does not serve it")
            raise not_found()
        account = self._account(headers.get("Authorization", ""))
        if headers.get("X-GitHub-Api-Version", API_VERSIONS[0]) not in API_VERSIONS:
            raise Refused(400, f"{headers['X-GitHub-Api-Version']} is not a supported version of the API")
        if "repo" in asked.values and f"{asked.values['owner']}/{asked.values['repo']}".lower() != self.name.lower():
            raise not_found()
        try:
            document = body if takes_a_file(asked) else json.loads(body) if body else None
        except ValueError:
            self.violations.append(f"{asked}: the body is not JSON")
            raise Refused(400, "Problems parsing JSON") from None
        if faults := request_faults(asked, query, document):
            self.violations += [f"{asked}: {fault}" for fault in faults]
            raise Refused(422, f"Invalid request.\n\n{'; '.join(faults)}")
        route = ROUTES[asked.method, asked.template]
        require_access(route, account)
        kinds = headers.get("Content-Type", ""), headers.get("Accept", "")
        return route.handler(self.world, Request(account, path, asked.values, query, document, *kinds))

    def _account(self, authorization: str) -> Account:
        kind, _, token = authorization.partition(" ")
        if not token or kind.lower() not in {"token", "bearer"}:
            raise Refused(401, "Requires authentication")
        if token not in self.tokens:
            raise Refused(401, "Bad credentials")
        return self.tokens[token]


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GitHubDouble

    def answer(self) -> None:
        address = urlsplit(self.path)
        uploads = address.path.startswith("/api/uploads/")
        path = address.path.removeprefix("/api/uploads" if uploads else "/api/v3")
        body = self.body()
        if path.startswith("/_double/"):
            self._control(path.removeprefix("/_double/"), body)
            return
        self.server.meanwhile(self.command, path)
        faults = self.server.faults.take(lambda fault: fault.concerns(self.command, path))
        if "slow" in faults:
            time.sleep(faults.pop("slow").delay)
        lost = not any(fault.performed for fault in faults.values()) and bool(faults)
        try:
            query = dict(parse_qsl(address.query, keep_blank_values=True))
            answer = (
                None if lost else self.server.answer(self.command, path, query, body, self.headers, uploads=uploads)
            )
            if "half_uploaded" in faults and answer and answer.status == 201:
                self.server.halve_upload(answer.document["id"])
        except AnswerDoesNotFit as error:
            self.server.broken.append(str(error))
            answer = Answer(500, {"message": f"the double is wrong: {error}"})
        status = answer.status if answer else 0
        self.server.requests.append(f"{self.command} {path} {'+'.join(faults) or status}")
        if faults:
            self._spoil(next(iter(faults.values())), answer)
        elif answer and answer.file is not None:
            self._send(answer.status, answer.file, answer.headers)
        elif answer:
            self._send(answer.status, _encoded(answer.document), answer.headers)

    def _spoil(self, fault: Fault, answer: Answer | None) -> None:
        if fault.kind == "cut":
            self._cut(_encoded(answer.document) if answer else b"")
        elif fault.kind == "unreadable":
            page = b"<html><body>Please log in to the network.</body></html>"
            self._send(fault.status, page, {"Content-Type": "text/html; charset=utf-8"})
        elif fault.kind == "primary_limit":
            until = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(math.ceil(fault.until))}
            headers = until if fault.headers else {}
            self._refuse(fault.status, "API rate limit exceeded for installation ID 1.", headers)
        elif fault.kind == "secondary_limit":
            wait = str(max(math.ceil(fault.until - time.time()), 1))
            if fault.as_date:
                wait = formatdate(math.ceil(fault.until), usegmt=True)
            left = {"retry-after": wait} if fault.headers else {}
            message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
            self._refuse(fault.status, message, left)
        else:
            messages = {"unauthorized": "Bad credentials", "not_found": "Not Found"}
            self._refuse(fault.status, messages.get(fault.kind, "Server Error"), {})

    def _refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
        self._send(status, _encoded(Refused(status, message).document), headers)

    def _cut(self, body: bytes) -> None:
        """Promise more than is sent."""
        self.reply(200, body[: len(body) // 2], {**_JSON, "Content-Length": str(len(body) + 100)}.items())
        self.close_connection = True

    def _control(self, name: str, body: bytes) -> None:
        server = self.server
        try:
            if name == "faults" and self.command == "PUT":
                server.faults.put(json.loads(body))
            elif name == "faults" and self.command == "DELETE":
                server.faults.clear()
            elif name == "forks" and self.command == "PUT":
                asked = json.loads(body)
                server.add_fork(asked["name"], Path(asked["directory"]))
            shown = {
                "faults": server.faults.shown(),
                "forks": sorted(server.world.forks),
                "violations": server.violations + server.broken,
                "requests": server.requests,
                "dispatches": msgspec.to_builtins(server.world.state.dispatches),
            }
            self._send(200, _encoded({name: shown[name]}), {})
        except (ValueError, KeyError) as error:
            self._send(400, _encoded({"message": str(error)}), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        used = len(self.server.requests)
        every = {
            "x-ratelimit-limit": str(_LIMIT),
            "x-ratelimit-remaining": str(max(_LIMIT - used, 1)),
            "x-ratelimit-used": str(used),
            "x-ratelimit-reset": str(int(time.time()) + 3600),
            "x-ratelimit-resource": "core",
            **(_JSON if body else {}),
            **headers,
        }
        self.reply(status, body, every.items())


_JSON = {"Content-Type": "application/json; charset=utf-8"}


def _encoded(document: object) -> bytes:
    return b"" if document is None else json.dumps(document, ensure_ascii=False).encode()
