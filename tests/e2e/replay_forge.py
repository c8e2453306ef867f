"""A forge that answers with what a real Gitea once answered, and serves the recorded repositories with real git."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CAP = 50
TOKEN = "t0ken"


@dataclass
class Recording:
    """A folder of recorded pull requests, and the requests that were made of it."""

    cases: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    repositories: Path
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @classmethod
    def load(cls, folder: Path, work: Path) -> Recording:
        """Read the exchanges and unpack the bundles."""
        cases = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "pulls").glob("*.json"))}
        answers, rows = dict[str, dict[str, Any]](), []
        for case in cases.values():
            for name, exchange in case["exchanges"].items():
                if exchange["request"]["method"] == "GET":
                    answers[urlsplit(exchange["request"]["path"]).path] = exchange["response"]
                if name == "issue_row":
                    rows.append(json.loads(exchange["response"]["body"]))
        for bundle in (folder / "repos").glob("*.bundle"):
            _unpack(bundle, work / "fleet" / f"{bundle.stem}.git")
        return cls(cases, answers, rows, work)

    def detail(self, case: str) -> dict[str, Any]:
        """Return the recorded detail of a case."""
        found: dict[str, Any] = json.loads(self.cases[case]["exchanges"]["detail"]["response"]["body"])
        return found

    def search(self, query: Mapping[str, str]) -> tuple[list[dict[str, Any]], int]:
        """Answer the instance-wide search as the server does: newest first, capped pages, the whole count."""
        since = _time(query["since"]) if "since" in query else None
        found = [
            row
            for row in self.rows
            if row["state"] == query.get("state", "open") and (since is None or _time(row["updated_at"]) >= since)
        ]
        found.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
        limit, page = min(int(query["limit"]), CAP), int(query["page"])
        return found[(page - 1) * limit : page * limit], len(found)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _unpack(bundle: Path, path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], check=True, capture_output=True)

    git("init", "--bare", "--quiet", str(path))
    git("-C", str(path), "fetch", "--quiet", str(bundle), "+refs/*:refs/*")
    git("-C", str(path), "config", "uploadpack.allowFilter", "true")
    git("-C", str(path), "config", "uploadpack.allowAnySHA1InWant", "true")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recording: Recording

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer from the recording."""
        address = urlsplit(self.path)
        self.recording.requests.append(f"GET {self.path}")
        if ".git/" in address.path:
            return self._git(b"")
        if self.headers.get("Authorization") != f"token {TOKEN}":
            return self._send(401, b'{"message": "token is required"}')
        if address.path == "/api/v1/repos/issues/search":
            rows, total = self.recording.search(dict(parse_qsl(address.query)))
            return self._send(200, json.dumps(rows).encode(), {"X-Total-Count": str(total)})
        answer = self.recording.answers.get(address.path)
        if answer is None:
            return self._send(404, b'{"message": "not found", "errors": null}')
        return self._send(answer["status"], answer["body"].encode())

    def do_POST(self) -> None:
        """Take what git posts."""
        self.recording.requests.append(f"POST {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._git(data)

    def _git(self, data: bytes) -> None:
        if not self.headers.get("Authorization", "").startswith("Basic "):
            return self._send(401, b"", {"WWW-Authenticate": "Basic"})
        address = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.recording.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": address.path,
            "QUERY_STRING": address.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(data)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=data, env=environment, capture_output=True, check=False)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return self._send(int(fields.pop("Status", "200").split()[0]), body, fields)

    def _send(self, status: int, body: bytes, fields: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (fields or {"Content-Type": "application/json;charset=utf-8"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def replayed(folder: Path, work: Path) -> Iterator[Recording]:
    """Serve a recording on a free port of loopback until the block ends."""
    recording = Recording.load(folder, work)
    handler = type("Handler", (_Handler,), {"recording": recording})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    recording.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield recording
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def has_token(text: str) -> bool:
    """Tell whether a text holds the token, bare or as git sends it."""
    return bool(re.search(rf"{TOKEN}|eDp0MGtlbg", text))
