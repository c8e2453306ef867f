"""What the gateway does beside passing on: canaries, shadows, holds, keys, bounds, warnings and telemetry."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from fleetssd.keys import SECRET_BYTES, mint
from fleetssd.routes import Route
from tests.services.gateway_world import ALIAS, CANDIDATE, INCUMBENT, World, gateway_world, said, whole

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a gateway with few places."""
    with gateway_world(tmp_path, concurrency=4, agent_concurrency=2, hold_requests=1, shadow_concurrency=1) as made:
        yield made


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Gate:
    """An engine that answers once it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()

    async def __call__(self, path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        """Wait, then answer."""
        while not self.open.is_set():
            await asyncio.sleep(0.005)
        out.write(said(body))


# --- canaries --------------------------------------------------------------------------------------------------


def test_a_task_stays_with_the_checkpoint_that_it_met(world: World) -> None:
    """About half of the tasks meet the candidate, each of them every time, and the header says which it was."""
    world.canary("split", 0.5)
    met = []
    for _ in range(2):
        headers = [{"x-fleetssd-task": f"fleet/conveyor#{number}"} for number in range(20)]
        replies = [world.post(headers=header) for header in headers]
        met.append([reply.headers["x-fleetssd-checkpoint"] for reply in replies])
        assert {reply.json()["model"] for reply in replies} == {ALIAS}
    assert met[0] == met[1]
    assert set(met[0]) == {"aaaa", "bbbb"}
    rows = world.calls(40)
    assert [row.checkpoint for row in rows] == met[0] + met[1]
    assert {(row.task_source, row.shadow) for row in rows} == {("header", False)}
    assert world.asked[0][1].get("x-fleetssd-task") is None


@pytest.mark.parametrize("how", [whole(500, b'{"error":"runner died"}'), whole(404, b'{"error":"gone"}'), b""])
def test_a_candidate_that_cannot_answer_costs_nobody_an_answer(world: World, how: bytes) -> None:
    """The incumbent answers; the candidate's failure is a row of its own that names the call."""

    async def broken(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        if json.loads(body)["model"] == INCUMBENT:
            out.write(said(body))
        elif how:
            out.write(how)
        else:
            out.close()

    world.answer = broken
    world.canary("split")
    reply = world.post()
    failed, answered = sorted(world.calls(2), key=lambda call: call.of, reverse=True)
    assert (reply.status_code, reply.headers["x-fleetssd-checkpoint"]) == (200, "aaaa")
    assert (answered.id, answered.checkpoint, answered.fault) == (reply.headers["x-fleetssd-request"], "aaaa", "")
    assert (failed.of, failed.checkpoint, failed.fault) == (answered.id, "bbbb", "engine" if how else "away")
    assert 0 < answered.held_ns <= answered.total_ns


def test_only_calls_of_the_alias_meet_a_candidate(world: World) -> None:
    """A checkpoint by its own name, and embeddings, whose vectors must stay comparable, do not."""
    world.canary("split")
    world.post(model=INCUMBENT)
    world.post("/api/embed", input="x")
    assert world.models() == [INCUMBENT, INCUMBENT]
    assert [(row.asked, row.checkpoint) for row in world.calls(2)] == [(INCUMBENT, "aaaa"), (ALIAS, "aaaa")]


def test_a_shadow_is_recorded_and_never_seen(world: World) -> None:
    """The caller has its answer before the candidate is asked; what is too much at a time is left out and counted."""
    gate = Gate()

    async def slow(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        if json.loads(body)["model"] == CANDIDATE:
            await gate(path, body, out)
        else:
            out.write(said(body))

    world.answer = slow
    world.canary("shadow")
    replies = [world.post() for _ in range(3)]
    assert [reply.headers["x-fleetssd-checkpoint"] for reply in replies] == ["aaaa"] * 3
    until(lambda: world.models().count(CANDIDATE) == 1)
    gate.open.set()
    rows = world.calls(4)
    (shadow,) = [row for row in rows if row.shadow]
    assert (shadow.checkpoint, shadow.of, shadow.finish) == ("bbbb", replies[0].headers["x-fleetssd-request"], "stop")
    assert (shadow.answer_tokens, world.metric("shadows_left_out_total")) == (3, 2)


# --- holds -----------------------------------------------------------------------------------------------------


def test_requests_wait_while_a_flip_reloads_the_engine(tmp_path: Path) -> None:
    """Those that came before its proof are answered by its target; one more than may wait is told to come back."""
    with gateway_world(tmp_path, hold_seconds=20, hold_requests=2) as world, ThreadPoolExecutor(2) as pool:
        world.turn(reloading=True)
        waiting = [pool.submit(world.post) for _ in range(2)]
        until(lambda: world.metric("calls_held") == 2)
        full = world.post()
        assert world.asked == []
        world.turn(reloading=False, route=Route(ALIAS, CANDIDATE, "bbbb"))
        heard = [each.result(20).headers["x-fleetssd-checkpoint"] for each in waiting]
        assert heard == ["bbbb", "bbbb"]
        assert all(0 < row.held_ns <= row.total_ns for row in world.calls(2))
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")


def test_a_flip_that_hangs_holds_nobody_for_ever(world: World) -> None:
    """After hold_seconds requests flow to what served before, and those that come later do not wait at all."""
    world.turn(reloading=True)
    first = world.post()
    began = time.monotonic()
    second = world.post()
    rows = world.calls(2)
    assert {first.headers["x-fleetssd-checkpoint"], second.headers["x-fleetssd-checkpoint"]} == {"aaaa"}
    assert rows[0].held_ns > 0
    assert rows[1].held_ns == 0, time.monotonic() - began


def test_an_engine_that_restarts_is_waited_for(world: World) -> None:
    """A connection that it closed without a word, and a full queue, are tried again; the caller sees the answer."""
    failures = [b"", whole(503, b'{"error":"server busy"}'), whole(500, b'{"error":"EOF"}')]

    async def restarting(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        if not failures:
            out.write(said(body))
        elif failure := failures.pop(0):
            out.write(failure)
        else:
            out.close()

    world.answer = restarting
    assert world.post().status_code == 200
    (row,) = world.calls(1)
    assert (row.status, row.fault, row.held_ns > 0, world.metric("retries_total")) == (200, "", True, 3)


def test_what_does_more_than_answer_is_not_sent_twice(world: World) -> None:
    """The engine may have done it before it hung up."""

    async def hangs_up(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        out.close()

    world.answer = hangs_up
    reply = httpx.post(f"{world.url}/api/create", json={"model": "other", "from": ALIAS})
    assert (reply.status_code, len(world.asked)) == (502, 1)


# --- who may ask, and how much ---------------------------------------------------------------------------------


def test_a_key_opens_names_the_agent_and_goes_no_further(world: World) -> None:
    """As a bearer or as x-api-key; without one, or with a wrong one, the answer is 401 on every route."""
    key, text = mint("agent-7", bytes(SECRET_BYTES), datetime.now(UTC))
    world.keys = {key.id: key}
    world.look()
    good = [{"Authorization": f"Bearer {text}"}, {"x-api-key": text}]
    bad = [{}, {"Authorization": f"Bearer {text}x"}, {"Authorization": "Basic eDp5"}, {"x-fleetssd-agent": "agent-7"}]
    assert [world.post(headers=header).status_code for header in good + bad] == [200] * 2 + [401] * 4
    assert [httpx.get(world.url + path).status_code for path in ("/", "/api/tags", "/v1/models")] == [401] * 3
    assert httpx.get(f"{world.url}/healthz").status_code == 200
    assert {row.agent for row in world.calls(2)} == {"agent-7"}
    assert not any({"authorization", "x-api-key"} & set(headers) for _, headers, _ in world.asked)
    world.keys = {}
    world.look()
    assert world.post(headers=good[0]).status_code == 401


def test_without_keys_a_caller_says_who_it_is(world: World) -> None:
    """And its credentials are for whatever stands before the engine: they pass."""
    world.post(headers={"x-fleetssd-agent": "agent-9", "authorization": "Bearer other"})
    assert [row.agent for row in world.calls(1)] == ["agent-9"]
    assert world.asked[0][1]["authorization"] == "Bearer other"


def test_an_agent_has_so_many_requests_and_the_gateway_too(world: World) -> None:
    """One more of an agent is 429, one more of all is 503, both with a moment to come back; then there is room."""
    world.answer = gate = Gate()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(world.post, headers={"x-fleetssd-agent": name}) for name in ("a", "a", "b", "b")]
        until(lambda: len(world.asked) == 4)
        crowded = world.post(headers={"x-fleetssd-agent": "c"})
        gate.open.set()
        assert [each.result(20).status_code for each in waiting] == [200] * 4
        gate.open.clear()
        waiting = [pool.submit(world.post, headers={"x-fleetssd-agent": "a"}) for _ in range(2)]
        until(lambda: len(world.asked) == 6)
        greedy = world.post(headers={"x-fleetssd-agent": "a"})
        gate.open.set()
        assert [each.result(20).status_code for each in waiting] == [200] * 2
    told = [(reply.status_code, reply.headers["retry-after"]) for reply in (crowded, greedy)]
    assert told == [(503, "1"), (429, "1")]
    assert (world.metric("calls_in_flight"), world.post().status_code) == (0, 200)


def test_a_read_only_gateway_changes_no_models(tmp_path: Path) -> None:
    """What makes, moves, fetches or takes away a model is refused before the engine hears of it; asking is not."""
    with gateway_world(tmp_path, read_only=True) as world:
        paths = ("/api/create", "/api/copy", "/api/pull", "/api/push", "/api/blobs/sha256:00")
        refused = [httpx.post(world.url + path, content=b"{}").status_code for path in paths]
        refused.append(httpx.request("DELETE", f"{world.url}/api/delete", content=b"{}").status_code)
        assert refused == [403] * 6
        assert world.asked == []
        assert world.post().status_code == 200


# --- telemetry -------------------------------------------------------------------------------------------------


def test_a_row_says_what_a_call_cost(world: World) -> None:
    """Tokens, times, how it ended; a streamed answer's are in its last line."""

    async def stream(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        end = b'"done":true,"done_reason":"length","prompt_eval_count":7,"eval_count":2,"load_duration":9}'
        lines = [b'{"model":"%s","response":"hi","done":false}\n', b'{"model":"%s","response":"",' + end + b"\n"]
        out.write(HEAD)
        for line in lines:
            text = line % INCUMBENT.encode()
            for half in (text[:9], text[9:]):
                out.write(b"%x\r\n%s\r\n" % (len(half), half))
                await out.drain()
        out.write(b"0\r\n\r\n")

    world.answer = stream
    reply = world.post("/api/generate", prompt="x", stream=True, user="fleet/conveyor#3")
    (row,) = world.calls(1)
    assert [json.loads(line)["model"] for line in reply.text.splitlines()] == [ALIAS] * 2
    assert (row.id, row.task, row.task_source) == (reply.headers["x-fleetssd-request"], "fleet/conveyor#3", "body")
    assert (row.asked, row.model, row.checkpoint, row.path) == (ALIAS, INCUMBENT, "aaaa", "/api/generate")
    assert (row.finish, row.prompt_tokens, row.answer_tokens, row.load_ns) == ("length", 7, 2, 9)
    assert (row.streamed, row.empty, row.status, row.fault, row.request, row.reply) == (
        True, False, 200, "", None, None,
    )  # fmt: skip
    assert 0 < (row.first_ns or 0) <= row.total_ns


@pytest.mark.parametrize(
    ("words", "fault", "empty"),
    [(said(b"", ""), "", True), (whole(400, b'{"error":"no"}'), "engine", None), (HEAD + b"5\r\n{}\n", "cut", None)],
)
def test_a_row_says_what_went_wrong(world: World, words: bytes, fault: str, empty: bool | None) -> None:
    """Nothing in the answer, an error, half an answer."""

    async def answer(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        out.write(words)
        if words.startswith(HEAD):
            await out.drain()
            out.close()

    world.answer = answer
    try:
        world.post()
    except httpx.RemoteProtocolError:
        assert fault == "cut"
    (row,) = world.calls(1)
    assert (row.fault, row.empty) == (fault, empty)


@pytest.mark.parametrize("split", [False, True])
def test_a_caller_that_hangs_up_is_a_row(world: World, split: bool) -> None:
    """Of a candidate that hangs nothing else is heard; the incumbent is not asked for nobody."""
    if split:
        world.canary("split")
    world.answer = gate = Gate()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{world.url}/api/chat", json={"model": ALIAS, "messages": []}, timeout=0.2)
    (row,) = world.calls(1)
    gate.open.set()
    told = (row.fault, row.status, row.first_ns, row.of, row.checkpoint)
    assert told == ("gone", 0, None, "", "bbbb" if split else "aaaa")
    assert len(world.asked) == 1


def test_without_a_database_the_last_route_is_kept(world: World) -> None:
    """Traffic flows to the checkpoint that served, and /healthz says why."""
    world.down = True
    world.look()
    health = httpx.get(f"{world.url}/healthz").json()
    assert (world.post().headers["x-fleetssd-checkpoint"], health["store"]) == ("aaaa", "the database is away")
    assert world.metric("store_up") == 0


def test_a_broken_key_file_holds_up_no_flip(world: World) -> None:
    """The keys that were there last are kept, and /healthz says so."""
    key, text = mint("agent-7", bytes(SECRET_BYTES), datetime.now(UTC))
    world.keys = {key.id: key}
    world.look()
    world.broken_keys = True
    world.turn(route=Route(ALIAS, CANDIDATE, "bbbb"))
    reply = world.post(headers={"Authorization": f"Bearer {text}"})
    assert (reply.headers["x-fleetssd-checkpoint"], world.post().status_code) == ("bbbb", 401)
    assert httpx.get(f"{world.url}/healthz").json()["store"] == "line 2 of the key file is no key"


# --- the decode ------------------------------------------------------------------------------------------------


def test_a_temperature_that_meets_a_baked_one_is_told(tmp_path: Path) -> None:
    """To the caller on every answer, and to the operator by a count; the request is sent as it was."""
    with gateway_world(tmp_path, decode={"manage": "bake"}) as world:
        world.turn(route=Route(ALIAS, INCUMBENT, "aaaa", tau=0.5))
        own, silent = world.post(options={"temperature": 0.8}), world.post()
        assert "samples at 0.4" in own.headers["x-fleetssd-warning"]
        assert "x-fleetssd-warning" not in silent.headers
        assert json.loads(world.asked[0][2])["options"] == {"temperature": 0.8}
        assert world.metric("temperature_warnings_total") == 1


def test_a_clamp_holds_callers_to_the_fleets_decode(tmp_path: Path) -> None:
    """Whatever they ask for."""
    with gateway_world(tmp_path, decode={"manage": "gateway", "clamp": True, "temperature": 0.3}) as world:
        world.post(options={"temperature": 0.9, "seed": 4})
        options = json.loads(world.asked[0][2])["options"]
    assert (options["temperature"], options["seed"]) == (0.3, 4)


# --- clients ---------------------------------------------------------------------------------------------------


def test_plain_clients_carry_a_key(world: World) -> None:
    """`ollama` and `openai` as they are: a host and a key are all that they need."""
    key, text = mint("agent-7", bytes(SECRET_BYTES), datetime.now(UTC))
    world.keys = {key.id: key}
    world.look()

    async def answer(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        table = {"id": "1", "object": "chat.completion", "created": 1, "model": INCUMBENT, "choices": [choice]}
        out.write(said(body) if path == "/api/chat" else whole(200, json.dumps(table).encode()))

    world.answer = answer
    turns: Any = [{"role": "user", "content": "x"}]
    plain = ollama.Client(world.url, headers={"Authorization": f"Bearer {text}"})
    chat = plain.chat(ALIAS, turns)
    plain.close()  # type: ignore[no-untyped-call]
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=text) as client:
        told = client.chat.completions.with_raw_response.create(model=ALIAS, messages=turns)
    with (
        openai.OpenAI(base_url=f"{world.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="no valid API key"),
    ):
        client.chat.completions.create(model=ALIAS, messages=turns)
    assert (chat.message.content, chat.model) == ("hello", ALIAS)
    assert (told.parse().choices[0].message.content, told.parse().model) == ("hello", ALIAS)
    assert told.headers["x-fleetssd-checkpoint"] == "aaaa"
