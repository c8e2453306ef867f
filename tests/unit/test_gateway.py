"""What the gateway changes on the way, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.config import Decode
from fleetssd.gateway import (
    ASKS,
    Ask,
    changes_models,
    climbs,
    reaches,
    read,
    refusal,
    rename,
    rewrite,
    warning,
    worth_a_retry,
)
from fleetssd.routes import Route

WAY = Route("fleet-coder:latest", "fleet-coder:v20261122-ab12cd", "ab12cd")
CALLERS = Decode()
OURS = Decode(manage="gateway", temperature=0.4, top_k=30, top_p=0.9, min_p=0.05)
API = {"temperature": 0.4, "top_p": 0.9, "top_k": 30, "min_p": 0.05}
V1 = {"temperature": 0.4, "top_p": 0.9}
BODY = b'{"model": "fleet-coder"}'


def sent(body: bytes, path: str = "/api/chat", decode: Decode = CALLERS) -> bytes | None:
    """Return what is sent on for a request to the alias, or None where it passes untouched."""
    asked = read(path, body)
    ask = rewrite(asked, WAY, decode) if asked else None
    return ask.body if ask else None


def filled(path: str, **fields: Any) -> dict[str, Any]:
    """Return the object that is sent on where the gateway manages the decode."""
    body = sent(json.dumps({"model": "fleet-coder", **fields}).encode(), path, OURS)
    assert body is not None
    table: dict[str, Any] = json.loads(body)
    assert table.pop("model") == WAY.model
    return table


def test_a_route_says_scales_where_the_server_reads_them() -> None:
    """What a way says beside the name goes out over what the caller said of it, on the two routes that take it."""
    lora = [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.0}]
    way = Route("fleet-coder", "fleet-coder:v2", "d", more={"lora": lora, "cache_prompt": True})
    body = b'{"model": "fleet-coder", "lora": [{"id": 1, "scale": 9}], "x": 1.50}'
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
        asked = read(path, body)
        assert asked is not None
        ask = rewrite(asked, way, CALLERS)
        assert ask is not None
        table = json.loads(ask.body)
        own = (table["lora"], table.get("cache_prompt"))
        assert own == ((lora, True) if path != "/v1/messages" else ([{"id": 1, "scale": 9}], None))
        assert b'"x": 1.50' in ask.body


def test_a_candidate_is_only_sent_what_can_say_so() -> None:
    """Where the engine goes by scales, a route that carries none would be answered by the alias under another name."""
    scaled = Route("fleet-coder", "fleet-coder:v2", "d", more={"lora": [{"id": 0, "scale": 1.0}]})
    reached = {path: [reaches(asked, way) for way in (WAY, scaled)] for path in ASKS if (asked := read(path, BODY))}
    assert {path for path, (named, _) in reached.items() if not named} == {
        "/api/embed", "/api/embeddings", "/v1/embeddings",
    }  # fmt: skip
    assert {path for path, (_, said) in reached.items() if said} == {"/v1/chat/completions", "/v1/completions"}


# --- the request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fleet-coder", "fleet-coder:latest", "Fleet-CODER", "FLEET-CODER:Latest"])
def test_every_spelling_of_the_alias_is_the_alias(name: str) -> None:
    """With or without `latest`, in any case; the caller's own spelling is kept for the reply."""
    asked = read("/api/chat", b'{"model": "%s"}' % name.encode())
    assert asked is not None
    assert rewrite(asked, WAY, CALLERS) == Ask(b'{"model": "%s"}' % WAY.model.encode(), name, WAY.model)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "fleet-base"}',
        b'{"model": "fleet-coder:v1"}',
        b'{"model": 7}',
        b'{"messages": [{"model": "fleet-coder"}]}',
        b'["model", "fleet-coder"]',
        b'"fleet-coder"',
        b"",
        b"model=fleet-coder",
        b'{"model": "fleet-coder"',
        b'{"model": "\\ud8"}',
    ],
)
def test_what_is_not_for_the_alias_passes_untouched(body: bytes) -> None:
    """Another model, another place, another type, a broken body: those are the engine's to answer."""
    assert sent(body, decode=OURS) is None


@pytest.mark.parametrize("path", ["/api/delete", "/api/show", "/api/copy", "/api/create", "/v1/models", "/"])
def test_only_routes_that_run_a_model_are_rewritten(path: str) -> None:
    """Who deletes the alias must not delete the checkpoint behind it."""
    assert sent(b'{"model": "fleet-coder"}', path, OURS) is None


def test_the_last_model_counts_in_any_letter_case() -> None:
    """The engine's JSON reader works so, and the name it would use is the name that is replaced."""
    body = b'{"model": "other", "MODEL": "fleet-coder"}'
    assert sent(body) == b'{"model": "other", "MODEL": "fleet-coder:v20261122-ab12cd"}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.text().filter(lambda key: key.lower() != "model"), JSON, max_size=5)


@given(before=FIELDS, after=FIELDS, indent=st.none() | st.integers(0, 3), ascii_only=st.booleans())
def test_rewriting_changes_nothing_but_the_model(
    before: dict[str, Any], after: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Whatever else a body holds, and however it is written, every other byte is as it was."""
    table = {**before, "model": "\x00", **after}
    text = json.dumps(table, indent=indent, ensure_ascii=ascii_only).encode()
    head, tail = text.split(b'"model": "\\u0000"', 1)
    for path in ASKS:
        got = sent(head + b'"model": "fleet-coder"' + tail, path)
        assert got == head + b'"model": "' + WAY.model.encode() + b'"' + tail


@given(st.binary(max_size=200) | st.text('{}[]",:\\ model').map(str.encode))
def test_no_body_breaks_the_gateway(body: bytes) -> None:
    """Noise is passed on, there and back."""
    assert sent(body, decode=OURS) is None
    assert rename(body, Ask(b"", "fleet-coder", WAY.model)) == body


# --- the decode ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_options_that_were_left_out_are_filled(path: str) -> None:
    """No options, null, an empty table: all of [decode] is stated."""
    silent: tuple[dict[str, Any], ...] = ({}, {"options": None}, {"options": {}})
    for fields in silent:
        assert filled(path, **fields) == {"options": API}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_v1_gets_what_v1_knows(path: str) -> None:
    """Temperature and top_p, which the engine would set to 1; options mean nothing there."""
    assert filled(path) == V1
    assert filled(path, options=None) == {**V1, "options": None}


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
def test_embeddings_have_no_decode(path: str) -> None:
    """There is nothing to sample."""
    assert filled(path, input="x") == {"input": "x"}


def test_a_callers_own_values_stay() -> None:
    """What is said is kept, zero too; null says nothing, and neither does an option in another letter case."""
    assert filled("/api/chat", options={"temperature": 0, "seed": 1, "top_p": None}) == {
        "options": {**API, "temperature": 0, "seed": 1}
    }
    assert filled("/api/chat", options={"Temperature": 0})["options"] == {**API, "Temperature": 0}
    assert filled("/v1/chat/completions", Temperature=0, top_p=None) == {"Temperature": 0, "top_p": 0.9}
    full = {"temperature": 1, "top_p": 1, "top_k": 1, "min_p": 0}
    assert filled("/api/generate", options=full) == {"options": full}


def test_options_that_are_no_table_are_the_engines_to_refuse() -> None:
    """They pass as they are."""
    assert filled("/api/chat", options=[1]) == {"options": [1]}


@pytest.mark.parametrize("manage", ["none", "bake"])
def test_nothing_is_filled_where_others_manage_the_decode(manage: Any) -> None:
    """Only decode.manage = "gateway" asks for it."""
    body = b'{"model":"fleet-coder"}'
    assert sent(body, decode=Decode(manage=manage, temperature=0.4)) == b'{"model":"%s"}' % WAY.model.encode()


@given(
    said=st.dictionaries(
        st.sampled_from(["temperature", "top_p", "top_k", "min_p", "seed", "stop"]), st.none() | st.integers(0, 3)
    )
)
def test_filling_is_defaults_under_what_was_said(said: dict[str, int | None]) -> None:
    """The options sent on are [decode] overridden by every value of the caller's, and filling twice is filling once."""
    spoken = {name: value for name, value in said.items() if value is not None or name not in API}
    once = filled("/api/chat", options=said)
    assert once == {"options": {**API, **spoken}}
    assert filled("/api/chat", **once) == once


CLAMPED = OURS.model_copy(update={"clamp": True})
BAKED = Decode(manage="bake", temperature=1.0, clamp=True)


@given(said=st.dictionaries(st.sampled_from([*API, "seed"]), st.none() | st.integers(0, 3)))
def test_clamped_callers_get_the_fleets_decode(said: dict[str, int | None]) -> None:
    """Whatever they say of it; what is no part of the decode stays."""
    body = sent(json.dumps({"model": "fleet-coder", "options": said}).encode(), decode=CLAMPED)
    assert json.loads(body or b"")["options"] == {**said, **API}
    v1 = sent(json.dumps({"model": "fleet-coder", **said}).encode(), "/v1/chat/completions", CLAMPED)
    assert json.loads(v1 or b"") == {"model": WAY.model, **said, **V1}


def test_a_clamp_over_a_baked_checkpoint_changes_what_is_said_alone() -> None:
    """Whoever says nothing is served by the weights; a stated temperature becomes the one that they were baked for."""
    silent, own = b'{"model":"fleet-coder"}', b'{"model":"fleet-coder","options":{"temperature":0.2,"seed":1}}'
    assert sent(silent, decode=BAKED) == b'{"model":"%s"}' % WAY.model.encode()
    assert json.loads(sent(own, decode=BAKED) or b"")["options"] == {"temperature": 1.0, "seed": 1}


@pytest.mark.parametrize(
    ("path", "fields", "warned"),
    [
        ("/api/chat", {"options": {"temperature": 0.5}}, True),
        ("/v1/chat/completions", {"temperature": 0.5}, True),
        ("/v1/chat/completions", {"options": {"temperature": 0.5}}, False),
        ("/api/chat", {"temperature": 0.5}, False),
        ("/api/chat", {}, False),
        ("/api/chat", {"options": {"temperature": None}}, False),
        ("/v1/chat/completions", {"temperature": 1}, False),
        ("/v1/chat/completions", {"temperature": 0}, False),
        ("/v1/chat/completions", {"temperature": True}, False),
        ("/v1/embeddings", {"temperature": 0.5}, False),
    ],
)
def test_a_temperature_that_meets_a_baked_one_is_warned_of(path: str, fields: dict[str, Any], warned: bool) -> None:
    """T times tau is what is sampled at; 1 is meant, greedy is greedy, and a clamp leaves nothing to warn of."""
    asked = read(path, json.dumps({"model": "fleet-coder", **fields}).encode())
    assert asked is not None
    baked = Route(WAY.alias, WAY.model, WAY.digest, tau=0.7)
    text = warning(asked, baked, CALLERS)
    assert (text is not None) is warned
    assert text is None or "samples at 0.35" in text
    assert warning(asked, WAY, CALLERS) is None
    assert warning(asked, baked, BAKED) is None


# --- the reply -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "renamed"),
    [
        (b'{"model":"M","done":false}', b'{"model":"A","done":false}'),
        (b'data: {"id":"1","model":"M","choices":[]}', b'data: {"id":"1","model":"A","choices":[]}'),
        (b'{"data":[{"a":[1,2]}],"model" : "M"}', b'{"data":[{"a":[1,2]}],"model" : "A"}'),
        (b'data: {"type":"t","response":{"id":1,"model":"M"}}', b'data: {"type":"t","response":{"id":1,"model":"A"}}'),
        (b'data: {"message":{"role":"r","model":"M"}}', b'data: {"message":{"role":"r","model":"A"}}'),
    ],
)  # fmt: skip
def test_a_reply_names_what_the_caller_asked_for(line: bytes, renamed: bytes) -> None:
    """Every place where a route puts the name, and nothing else of the line."""
    ask = Ask(b"", "fleet-coder", WAY.model)
    model = b'"' + WAY.model.encode() + b'"'
    assert rename(line.replace(b'"M"', model), ask) == renamed.replace(b'"A"', b'"fleet-coder"')


@pytest.mark.parametrize(
    "line",
    [
        b'{"model":"other:1","response":"M"}',
        b'{"response":"{\\"model\\":\\"M\\"}"}',
        b'{"message":{"tool_calls":[{"function":{"arguments":{"model":"M"}}}]}}',
        b'{"choices":[{"model":"M"}]}',
        b'{"error":"model \\"M\\" not found"}',
        b"data: [DONE]",
        b"event: message_start",
        b'{"response":"M',
        b'{1:"M","model":"M"}',
        b'{"response" "M","model":"M"}',
        b"",
    ],
)
def test_what_the_model_says_is_never_touched(line: bytes) -> None:
    """A name within an answer, a tool call or an error stays, and half a line or no JSON passes as it is."""
    line = line.replace(b"M", WAY.model.encode())
    assert rename(line, Ask(b"", "fleet-coder", WAY.model)) == line


def test_a_reply_under_the_callers_own_name_is_passed_as_it_is() -> None:
    """Without a checkpoint on file the alias itself was asked."""
    assert rename(b'{"model":"a"}', Ask(b"", "a", "a")) == b'{"model":"a"}'


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "again"),
    [
        (503, b"", True),
        (503, b'{"error":"server busy"}', True),
        (500, b'{"error":"EOF"}', True),
        (500, b'{"error":"unexpected EOF"}', True),
        (500, b'{"error":{"message":"EOF","type":"api_error"}}', True),
        (500, b'{"error":"out of memory"}', False),
        (500, b"not JSON", False),
        (500, b'["EOF"]', False),
        (404, b'{"error":"EOF"}', False),
    ],
)
def test_only_a_full_queue_and_a_half_written_name_are_tried_again(status: int, body: bytes, again: bool) -> None:
    """Other failures are the engine's answer."""
    assert worth_a_retry(status, body) is again


def test_a_refusal_speaks_the_routes_language() -> None:
    """Ollama's clients read a text, OpenAI's an object; both get the hint."""
    assert json.loads(refusal("/api/chat", "m", "h")) == {"error": "m", "hint": "h"}
    error = json.loads(refusal("/v1/chat/completions", "m", "h"))["error"]
    assert (error["message"], error["type"], error["hint"]) == ("m", "api_error", "h")


# --- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/api/create", True),
        ("/api//Delete", True),
        ("/api/blobs/sha256:00", True),
        ("/api/pull", True),
        ("/api/chat", False),
        ("/api/show", False),
        ("/api/tags", False),
        ("/api", False),
        ("/v1/create", False),
        ("/", False),
    ],
)
def test_some_routes_change_the_engines_models(path: str, changes: bool) -> None:
    """However they are spelled."""
    assert changes_models(path) is changes


def test_a_path_may_not_climb() -> None:
    """Steps that an engine would resolve; dots within a name are a name."""
    assert [climbs(path) for path in ("/api/../x", "/api/.", "/api/v1..2", "/v1/models/a.b")] == [
        True, True, False, False,
    ]  # fmt: skip
