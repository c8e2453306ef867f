"""Exchanges recorded from a real Ollama, replayed in order from an empty store (rules: samples/ollama/README.md)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.servers import embedded_ollama

SAMPLES = Path(__file__).parent.parent / "samples" / "ollama"
SCENARIOS = sorted(path.stem for path in SAMPLES.glob("0*.json"))
FREE = {
    "created_at", "created", "modified_at", "expires_at", "total_duration", "load_duration", "id", "size",
    "prompt_eval_duration", "eval_duration", "size_vram", "digest",
}  # fmt: skip
RECORDED_REGISTRY = "127.0.0.1:15005"
Json = dict[str, Any]


class Registry(ThreadingHTTPServer):
    """Serves one manifest once it is published, and nothing else."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RegistryHandler)
        self.manifest: bytes | None = None
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"


class _RegistryHandler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Accept")))
        found = self.server.manifest if "/manifests/" in self.path else None
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET" and found:
            self.wfile.write(found)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def log_message(self, *_: object) -> None:
        """Keep the test's output quiet."""


@contextmanager
def registry() -> Iterator[Registry]:
    """Run a registry on a free port."""
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Replay:
    """All scenarios' differences, from one run over one server."""

    def __init__(self) -> None:
        self.differences: dict[str, list[str]] = {}
        self.digests: list[tuple[str, str]] = []
        self.seen: list[tuple[str, str, str | None]] = []
        self.manifest_sha256 = ""


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """Replay everything once, in order."""
    result = Replay()
    data = tmp_path_factory.mktemp("store")
    with embedded_ollama(data, "0.32") as url, httpx.Client(base_url=url, timeout=60) as client, registry() as place:
        for name in SCENARIOS:
            text = (SAMPLES / f"{name}.json").read_text().replace(RECORDED_REGISTRY, place.address)
            scenario = json.loads(text)
            found: list[str] = []
            for number, step in enumerate(scenario["steps"]):
                if "manifest" in scenario and number == 1:  # the first step finds no manifest there
                    place.manifest = json.dumps(scenario["manifest"], separators=(",", ":")).encode()
                place.seen.clear()
                reply = send(client, step["request"])
                found += [f"step {number}: {text}" for text in compare(step["response"], reply)]
                result.digests += digests(step["response"], reply)
                if "manifest" in scenario and "lines" in step["response"]:
                    result.seen = list(place.seen)
            result.manifest_sha256 = scenario.get("manifest_sha256", "")
            result.differences[name] = found
    return result


def send(client: httpx.Client, request: Json) -> httpx.Response:
    """Send a recorded request."""
    body: Json = {}
    headers = dict(request.get("headers", {}))
    if "body_file" in request:
        body = {"content": (SAMPLES / "files" / request["body_file"]).read_bytes()}
    elif "body_raw" in request:
        body = {"content": request["body_raw"].encode()}
        headers = {"content-type": "application/json", **headers}
    elif "body" in request:
        body = {"json": request["body"]}
    return client.request(request["method"], request["path"], headers=headers, **body)


def compare(recorded: Json, reply: httpx.Response) -> list[str]:
    """Say how a reply differs from the recorded one."""
    if reply.status_code != recorded["status"]:
        return [f"status {reply.status_code}, recorded {recorded['status']}: {reply.text[:200]}"]
    kinds = [(text or "").split(";")[0] for text in (recorded["content_type"], reply.headers.get("content-type"))]
    found = [] if kinds[0] == kinds[1] else [f"content type {kinds[1]!r}, recorded {kinds[0]!r}"]
    if "body" in recorded:
        return found + differ(recorded["body"], reply.json(), "")
    if "lines" in recorded:
        seen = [
            line for line in map(json.loads, reply.text.splitlines()) if "total" not in line or "pulling" in str(line)
        ]
        return found + differ(recorded["lines"], seen, "")
    if kinds[0] == "text/event-stream":
        return found + differ(events(recorded["text"]), events(reply.text), "")
    if reply.request.method != "HEAD" and reply.text != recorded["text"]:
        found.append(f"text {reply.text!r}, recorded {recorded['text']!r}")
    if "allow" in recorded and reply.headers.get("allow") != recorded["allow"]:
        found.append(f"allow {reply.headers.get('allow')!r}")
    return found


def events(text: str) -> list[Any]:
    """Read the events of a stream; the end mark stays a text."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def differ(recorded: Any, seen: Any, path: str) -> list[str]:  # noqa: PLR0911 - one rule a line
    """Compare two values key by key under the README's rules."""
    key = path.rpartition(".")[2]
    if key in FREE:
        return [] if type(recorded) is type(seen) else [f"{path} is {type(seen).__name__}"]
    if isinstance(recorded, dict) and isinstance(seen, dict):
        if recorded.keys() != seen.keys():
            return [f"{path} has keys {sorted(seen)}, recorded {sorted(recorded)}"]
        return [text for name in recorded for text in differ(recorded[name], seen[name], f"{path}.{name}")]
    if isinstance(recorded, list) and isinstance(seen, list):
        if len(recorded) != len(seen):
            return [f"{path} has {len(seen)} items, recorded {len(recorded)}: {seen}"]
        if key in ("models", "data"):  # two that changed in one second have no order
            recorded, seen = (sorted(rows, key=lambda row: str(row.get("name"))) for rows in (recorded, seen))
        pairs = enumerate(zip(recorded, seen, strict=True))
        return [text for i, (left, right) in pairs for text in differ(left, right, f"{path}[{i}]")]
    if key == "logprob":
        return [] if abs(recorded - seen) < 2e-3 else [f"{path} {seen}, recorded {recorded}"]
    if isinstance(recorded, str) and isinstance(seen, str):
        recorded, seen = (re.sub(r"/\S+/blobs/", "/STORE/blobs/", text) for text in (recorded, seen))
    return [] if recorded == seen else [f"{path} {seen!r}, recorded {recorded!r}"]


def digests(recorded: Json, reply: httpx.Response) -> list[tuple[str, str]]:
    """Pair the recorded and the seen model digests of tags and ps."""
    rows = recorded.get("body", {}).get("models") if isinstance(recorded.get("body"), dict) else None
    seen = {row["name"]: row["digest"] for row in reply.json()["models"]} if rows else {}
    return [(row["digest"], seen.get(row["name"], "")) for row in rows or []]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_exchange_comes_out_equal(replay: Replay, scenario: str) -> None:
    """The embedded server answers each recorded request as the real one did."""
    assert replay.differences[scenario] == []


def test_manifests_are_those_of_the_real_server_byte_for_byte(replay: Replay) -> None:
    """Even where digests may differ they do not: a manifest's digest is the sha256 of the same bytes."""
    assert len(replay.digests) > 10
    assert [pair for pair in replay.digests if pair[0] != pair[1]] == []


def test_a_pull_asks_the_registry_for_the_manifest_alone(replay: Replay) -> None:
    """With every layer uploaded, the registry sees one GET of the manifest."""
    accept = "application/vnd.docker.distribution.manifest.v2+json"
    assert replay.seen == [("GET", "/v2/fleet/coder/manifests/v3", accept)]
