"""A RetainDB-compatible memory server, in memory: the routes that fleetssd uses, and the traps of its write policy.

It stands in for the real one in tests. Idempotency keys are replayed, 409 where the body differs; facts that look
alike (token Jaccard of .88 and more, same type and scope) are merged and keep the old text; DELETE is soft.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

LIKENESS = 0.88
_CHATTER = re.compile(r"(he|she|they|it)\b|.*\b(the system|that project|something|things)\b", re.IGNORECASE)
_THRESHOLDS = {"USER": 0.82, "PROJECT": 0.76, "AGENT": 0.74, "TASK": 0.72, "SESSION": 0.58}


@dataclass(slots=True)
class Faults:
    """What goes wrong with the next writes: `status` instead of an answer, for `times` requests.

    `lose` writes first and then fails, as when an answer is lost on the way; `poison` fails what contains the text,
    for ever; `seconds` is how long every answer takes; `blind` hides new memories from GET.
    """

    status: int = 0
    times: int = 0
    lose: bool = False
    poison: str = ""
    poison_status: int = 422
    seconds: float = 0.0
    blind: bool = False


@dataclass(slots=True)
class Memories:
    """The server's state; `writes` counts the requests to write, `key` is what it wants to be shown."""

    key: str = ""
    faults: Faults = field(default_factory=Faults)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    replies: dict[str, tuple[str, int, dict[str, Any]]] = field(default_factory=dict)
    writes: int = 0

    def active(self) -> list[dict[str, Any]]:
        """Return the memories that were not deleted."""
        return [row for row in self.rows.values() if row["is_active"]]


def build(memories: Memories) -> Starlette:
    """Return the application over a state."""

    def route(path: str, method: str, handler: Callable[[Memories, Request], Awaitable[Response]]) -> Route:
        async def answer(request: Request) -> Response:
            await asyncio.sleep(memories.faults.seconds)
            if memories.key and request.headers.get("authorization") != f"Bearer {memories.key}":
                return _refusal(401, "UNAUTHORIZED", "a key is needed")
            return await handler(memories, request)

        return Route(path, answer, methods=[method])

    one = "/v1/memory/{id}"
    return Starlette(
        routes=[route("/v1/memory", "POST", _posted), route(one, "GET", _read), route(one, "DELETE", _deleted)]
    )


async def _posted(memories: Memories, request: Request) -> Response:
    body = await request.json()
    memories.writes += 1
    faults = memories.faults
    broken = faults.times > 0
    faults.times -= broken
    if broken and not faults.lose:
        return _refusal(faults.status, "UNWELL", "try again")
    if faults.poison and faults.poison in body.get("content", ""):
        return _refusal(faults.poison_status, "REJECTED", "never this one")
    status, answer, headers = _write(memories, body, request.headers.get("idempotency-key", ""))
    return _refusal(faults.status, "LOST", "the answer") if broken else JSONResponse(answer, status, headers)


async def _read(memories: Memories, request: Request) -> Response:
    row = memories.rows.get(request.path_params["id"])
    hidden = row is None or memories.faults.blind
    return _refusal(404, "NOT_FOUND", "no such memory") if hidden else JSONResponse({"memory": row})


async def _deleted(memories: Memories, request: Request) -> Response:
    row = memories.rows.get(request.path_params["id"])
    if row is None:
        return _refusal(404, "NOT_FOUND", "no such memory")
    row["is_active"] = False
    return JSONResponse({"success": True})


def _write(memories: Memories, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    text = json.dumps(body, sort_keys=True)
    if key in memories.replies:
        before, status, answer = memories.replies[key]
        if before != text:
            return 409, {"success": False, "error": {"code": "IDEMPOTENCY_CONFLICT", "message": "another body"}}, {}
        return status, answer, {"x-idempotency-replay": "true"}
    status, answer = _judged(memories, body)
    if key and status < 300:
        memories.replies[key] = (text, status, answer)
    return status, answer, {}


def _judged(memories: Memories, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Apply the write policy, then keep the fact or find it in another."""
    content, scope = str(body.get("content", "")), str(body.get("scope_target", "PROJECT"))
    if not 1 <= len(content) <= 10_000 or _CHATTER.match(content):
        return 422, {"success": False, "error": {"code": "REJECTED", "message": "chatter or a vague reference"}}
    if _confidence(content, float(body.get("confidence", 0.8))) < _THRESHOLDS[scope]:
        return 422, {"success": False, "error": {"code": "LOW_CONFIDENCE", "message": "dropped"}}
    place = (scope, body.get("memory_type"), body.get("task_id"), body.get("project"))
    for row in memories.active():
        if row["place"] == list(place) and _likeness(row["content"], content) >= LIKENESS:
            outcome = "exact_duplicate" if row["content"] == content else "merged"
            return 200, _answer(row, outcome)
    number = f"mem-{len(memories.rows) + 1}"
    row = {
        "id": number,
        "content": content,
        "type": body.get("memory_type"),
        "metadata": body.get("metadata", {}),
        "is_active": True,
        "place": list(place),
    }
    memories.rows[number] = row
    return 201, _answer(row, "created")


def _confidence(content: str, told: float) -> float:
    facts = ". " in content or ";" in content or len(re.findall(r"\b(?:and|also|plus)\b", content)) > 1
    return told - 0.10 * facts - 0.06 * (len(content.split()) < 4) + 0.08


def _answer(row: dict[str, Any], outcome: str) -> dict[str, Any]:
    return {"success": True, "mode": "sync", "memory_id": row["id"], "memory": row, "write_outcome": outcome}


def _likeness(a: str, b: str) -> float:
    left, right = (set(re.findall(r"\w{3,}", text.lower())) for text in (a, b))
    return len(left & right) / max(len(left | right), 1)


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"success": False, "error": {"code": code, "message": message}}, status)


@contextlib.contextmanager
def running(memories: Memories) -> Iterator[str]:
    """Serve a state in a thread for the length of a block; yields the address."""
    config = uvicorn.Config(build(memories), port=0, log_level="error", access_log=False, lifespan="off")
    listening = config.bind_socket()
    # Connections inherit this; without it each answer may wait 40 ms for a delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.listen()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="retaindb", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
