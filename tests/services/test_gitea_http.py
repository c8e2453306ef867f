"""The forge adapter against a server on loopback that answers as real ones do on their bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fleetssd import config
from fleetssd.adapters.gitea_http import GiteaForge, read_token
from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient
from fleetssd.ports import Forge
from fleetssd.sweeps import Part

DETAIL = {"number": 1, "merged": True, "base": {"repo": {"id": 2, "full_name": "fleet/a"}}}


@dataclass
class Answer:
    """One scripted answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Script:
    """A server whose answers are decided by a function of (path, query), the same for every test."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.decide: Callable[[str, dict[str, str]], Answer] = lambda *_: self.answers.pop(0)
        self.seen: list[tuple[str, dict[str, str], str]] = []
        self.together = self.most = 0
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> Answer:
        """Note the request and decide its answer."""
        address = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        with self.lock:
            self.seen.append((address.path, query, handler.headers.get("Authorization", "")))
            self.together += 1
            self.most = max(self.most, self.together)
        try:
            return self.decide(address.path, query)
        finally:
            with self.lock:
                self.together -= 1


@pytest.fixture
def script() -> Iterator[Script]:
    """Serve a script."""
    told = Script()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Stay silent."""

        def do_GET(self) -> None:
            """Give the scripted answer."""
            found = told.answer(self)
            body = found.body if isinstance(found.body, bytes) else json.dumps(found.body).encode()
            self.send_response_only(found.status)
            for name, value in {"Date": "Sun, 22 Nov 2026 06:00:00 GMT", **found.headers}.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def forge(script: Script, tmp_path: Path) -> Iterator[GiteaForge]:
    """Open the adapter on the script; it waits a hundredth of a second between tries."""
    (tmp_path / "token").write_text("t0ken\n")
    settings = config.Forge(url=script.url, token_file=tmp_path / "token", timeout_seconds=5)
    made = GiteaForge(settings, attempts=3, wait_seconds=0.01)
    yield made
    made.close()


def row(number: int) -> dict[str, Any]:
    """Return a row of the search."""
    return {
        "number": number, "updated_at": "2026-11-22T05:00:00Z", "pull_request": {"merged": True},
        "repository": {"id": 2, "full_name": "fleet/a"},
    }  # fmt: skip


def swept(forge: Forge, since: datetime | None = None) -> Part:
    """Return a whole sweep as one part."""
    parts = list(forge.sweep(lambda _: since))
    rows = {row.key: row for part in parts for row in part.rows}
    return replace(parts[-1], rows=tuple(rows.values()))


def pages(count: int, cap: int, totals: Callable[[int], int | None]) -> Callable[[str, dict[str, str]], Answer]:
    """Answer a search over `count` rows, with pages cut to `cap` in silence."""

    def decide(path: str, query: dict[str, str]) -> Answer:
        if path.endswith("/settings/api"):
            return Answer(body={"max_response_items": 50})
        page = int(query["page"])
        total = totals(page)
        body = [row(number) for number in range(count)][(page - 1) * cap : page * cap]
        elsewhere = {"Link": '<http://evil/api?page=2>; rel="next"'}
        return Answer(body=body, headers=elsewhere | ({} if total is None else {"X-Total-Count": str(total)}))

    return decide


@pytest.mark.parametrize("told", [True, False])
def test_every_row_is_read_whatever_the_cap(script: Script, forge: GiteaForge, told: bool) -> None:
    """Pages cut shorter than asked, with or without a total, with a Link to another host: every row, each once."""
    script.decide = pages(25, 10, lambda _: 25 if told else None)
    sweep = swept(forge, datetime(2026, 11, 22, tzinfo=UTC))
    assert [found.key.number for found in sweep.rows] == list(range(25))
    assert (sweep.upto, sweep.complete) == (datetime(2026, 11, 22, 6, tzinfo=UTC), True)
    asked = [query["page"] for _, query, _ in script.seen if query]
    assert asked == (["1", "2", "3"] if told else ["1", "2", "3", "4"])
    assert script.seen[0][1] == {
        "type": "pulls", "state": "closed", "since": "2026-11-22T00:00:00Z", "limit": "50", "page": "1",
    }  # fmt: skip


def test_a_moving_total_is_swept_again(script: Script, forge: GiteaForge) -> None:
    """Where rows move between pages, the sweep is read again, and every row of every reading counts."""
    moves = iter([20, 21])
    script.decide = pages(20, 10, lambda _: next(moves, 20))
    sweep = swept(forge)
    assert (len(sweep.rows), sweep.complete) == (20, True)
    assert len(script.seen) == 6  # two sweeps of two pages and one that saw the end, and once the page caps


def test_a_total_that_never_rests_is_told(script: Script, forge: GiteaForge) -> None:
    """After some tries the rows are given as incomplete, so that the cursor stays."""
    script.decide = pages(20, 10, lambda page: 20 + page)
    sweep = swept(forge)
    assert (len(sweep.rows), sweep.complete) == (20, False)


def test_rows_of_issues_are_dropped(script: Script, forge: GiteaForge) -> None:
    """Null arrays, null items and plain issues are no pull requests."""
    script.answers = [
        Answer(body=None),
        Answer(body=[None, {**row(1), "pull_request": None}, row(2)], headers={"X-Total-Count": "3"}),
    ]
    assert swept(forge).rows == ()
    assert [found.key.number for found in swept(forge).rows] == [2]


def test_without_a_date_the_clock_is_unknown(script: Script, forge: GiteaForge) -> None:
    """A proxy may drop the Date header."""
    script.answers = [Answer(body=[], headers={"Date": ""})]
    assert swept(forge).upto is None


def test_the_token_goes_into_one_header(script: Script, forge: GiteaForge) -> None:
    """The token is sent as `token T`, and is in no address."""
    script.answers = [Answer(body=DETAIL)]
    forge.pull("fleet/a", 1)
    path, query, login = script.seen[0]
    assert (path, query, login) == ("/api/v1/repos/fleet/a/pulls/1", {}, "token t0ken")


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_none(script: Script, forge: GiteaForge, status: int) -> None:
    """A missing or hidden pull request or issue is None, its timeline empty."""
    script.decide = lambda *_: Answer(status, {"message": "not found"})
    assert (forge.pull("a/b", 1), forge.issue("a/b", 1)) == (None, None)
    if status == 404:
        assert forge.timeline("a/b", 1) == []


def test_a_refused_timeline_is_refused(script: Script, forge: GiteaForge) -> None:
    """Any other refusal is the caller's to see."""
    script.answers = [Answer(422, {"message": "no"})]
    with pytest.raises(Rejected) as refused:
        forge.timeline("a/b", 1)
    assert refused.value.status == 422


def test_an_issue_and_a_timeline_are_read(script: Script, forge: GiteaForge) -> None:
    """An issue is its text; a timeline that is null, or has null rows, is what is left."""
    script.answers = [
        Answer(body={"number": 3, "title": "T", "body": "B", "repository": {"id": 2, "full_name": "fleet/a"}}),
        Answer(body={"number": 4, "pull_request": {"merged": True}}),
        Answer(body=None),
        Answer(body=[None, {"type": "close"}]),
    ]
    issue = forge.issue("FLEET/a", 3)
    assert issue is not None
    assert (issue.repository, issue.title) == ("fleet/a", "T")
    assert forge.issue("fleet/a", 4) is None
    assert (forge.timeline("fleet/a", 3), forge.timeline("fleet/a", 3)) == ([], [{"type": "close"}])


@pytest.mark.parametrize(
    "bad",
    [
        Answer(500, {"message": "", "url": "x"}),
        Answer(502, b"<html>proxy</html>"),
        Answer(503, b"maintenance", {"Retry-After": "0"}),
        Answer(429, {"message": "slow down"}, {"Retry-After": "Sun, 22 Nov 2026 06:00:00 GMT"}),
        Answer(429, None, {"Retry-After": "soon"}),
        Answer(429, [], {"Retry-After": "0"}),
        Answer(200, b"<html>login</html>"),
        Answer(200, None),
    ],
    ids=lambda answer: f"{answer.status}",
)
def test_a_bad_moment_is_tried_again(script: Script, forge: GiteaForge, bad: Answer) -> None:
    """An error of the server, a proxy's page, or a detail of `null`: three tries, and the last error counts."""
    script.answers = [bad, bad, Answer(body=DETAIL)]
    found = forge.pull("fleet/a", 1)
    assert found is not None
    assert found.merged
    script.answers = [bad, bad, bad]
    with pytest.raises(Transient):
        forge.pull("fleet/a", 1)
    assert len(script.seen) == 6


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Misconfigured), (403, Misconfigured), (400, Rejected), (422, Rejected), (423, Rejected)]
)
def test_a_refusal_is_not_tried_again(script: Script, forge: GiteaForge, status: int, kind: type[FleetError]) -> None:
    """A bad token or a bad request is told once, with what the server said and what to do."""
    script.answers = [Answer(status, {"message": "because"})]
    with pytest.raises(kind) as refused:
        swept(forge)
    assert "because" in refused.value.message
    assert (kind is Misconfigured) == ("read:issue" in refused.value.hint)


@pytest.mark.parametrize("body", [{"base": None}, {"base": {"repo": {"full_name": "a/b"}}}, {**DETAIL, "number": "x"}])
def test_an_unknown_shape_is_named(script: Script, forge: GiteaForge, body: dict[str, Any]) -> None:
    """What answers but is no forge is said to be none."""
    script.answers = [Answer(body=body)]
    with pytest.raises(Transient, match="unknown shape"):
        forge.pull("fleet/a", 1)


@pytest.mark.parametrize("status", [301, 307])
def test_a_renamed_repository_is_followed(script: Script, forge: GiteaForge, status: int) -> None:
    """A relative redirect on the same server is followed with the token."""
    script.answers = [
        Answer(status, b"<a>moved</a>", {"Location": "/api/v1/repos/fleet/new/pulls/1"}),
        Answer(body=DETAIL),
    ]
    assert forge.pull("fleet/old", 1) is not None
    assert [(path, login) for path, _, login in script.seen] == [
        ("/api/v1/repos/fleet/old/pulls/1", "token t0ken"), ("/api/v1/repos/fleet/new/pulls/1", "token t0ken"),
    ]  # fmt: skip


def test_a_redirect_elsewhere_is_not_followed(script: Script, forge: GiteaForge) -> None:
    """The token never goes to another host."""
    script.answers = [Answer(302, b"", {"Location": "http://localhost:1/api/v1/x"})]
    with pytest.raises(Misconfigured, match="another server"):
        forge.pull("fleet/a", 1)
    assert len(script.seen) == 1


def test_redirects_end(script: Script, forge: GiteaForge) -> None:
    """A server that redirects in a circle is refused."""
    script.decide = lambda path, _: Answer(301, b"", {"Location": path})
    with pytest.raises(Rejected, match="again and again"):
        forge.pull("fleet/a", 1)
    assert len(script.seen) == 4


def test_a_silent_server_is_transient(tmp_path: Path) -> None:
    """Where nobody listens, the error names the address and the setting."""
    (tmp_path / "token").write_text("x")
    forge = GiteaForge(config.Forge(url="http://127.0.0.1:9", token_file=tmp_path / "token"), attempts=1)
    try:
        with pytest.raises(Transient, match=r"127\.0\.0\.1:9") as away:
            swept(forge)
        assert "forge.url" in away.value.hint
    finally:
        forge.close()


def test_two_requests_at_most_are_in_flight(script: Script, forge: GiteaForge) -> None:
    """However many threads ask, the server sees two at a time."""
    gate = threading.Barrier(2, timeout=5)

    def decide(*_: Any) -> Answer:
        gate.wait()
        return Answer(body=DETAIL)

    script.decide = decide
    threads = [threading.Thread(target=forge.pull, args=("fleet/a", number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (script.most, len(script.seen)) == (2, 6)


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", "tökén".encode()])
def test_a_token_file_must_hold_a_token(tmp_path: Path, content: bytes) -> None:
    """An empty file, a sentence or bytes are no token; the error never shows what is in the file."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(Misconfigured) as refused:
        read_token(tmp_path / "token")
    assert "words" not in refused.value.message


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    """The path and what to do are told."""
    with pytest.raises(Misconfigured, match="No such file") as refused:
        read_token(tmp_path / "none")
    assert "forge.token_file" in refused.value.hint
