"""/api/embed: vectors of unit length from a runner started for embedding."""

from __future__ import annotations

import math
import time

from starlette.requests import Request
from starlette.responses import Response

from .replies import ApiError, body_of, json_reply
from .turns import Server, open_turn, while_connected


async def embed(server: Server, http: Request) -> Response:
    """Answer /api/embed."""
    started = time.perf_counter_ns()
    request = await body_of(http)
    texts = _inputs(request.get("input"))
    name, model = server.find(str(request.get("model") or ""))
    turn = await while_connected(http, open_turn(server, request, name, model, started=started, embedding=True))
    try:
        if not texts:
            return json_reply({"model": turn.asked, "embeddings": []})
        answers = [await turn.engine.embed(text) for text in texts]
    finally:
        turn.close()
    size = int(request.get("dimensions") or 0) or None
    reply = {
        "model": turn.asked,
        "embeddings": [_unit(vector[:size]) for vector, _ in answers],
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": turn.loaded - started,
        "prompt_eval_count": sum(count for _, count in answers),
    }
    return json_reply(reply)


def _inputs(value: object) -> list[str]:
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    return texts


def _unit(vector: list[float]) -> list[float]:
    length = max(math.sqrt(sum(value * value for value in vector)), 1e-12)
    return [value / length for value in vector]
