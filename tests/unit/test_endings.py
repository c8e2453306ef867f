"""How answers end, on every route."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.endings import Ending, ending, says


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            [b'{"model":"m","done":true,"done_reason":"stop","prompt_eval_count":4,"eval_count":8,"load_duration":7}'],
            Ending("stop", 4, 8, 7),
        ),
        ([b'{"done":true,"done_reason":"load"}'], Ending("load")),
        (
            [
                b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n',
                b"\n",
                b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n',
                b"data: [DONE]\n",
            ],
            Ending("length", 3, 5),
        ),
        (
            [b'{"choices":[{"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"completion_tokens":0}}'],
            Ending("tool_calls", 3, 0),
        ),
        (
            [b"event: message_delta\n", b'data: {"delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":9}}\n'],
            Ending("length", None, 9),
        ),
        (
            [(
                b'data: {"type":"response.completed","response":{"object":"response","status":"completed",'
                b'"error":null,"incomplete_details":null,"usage":{"input_tokens":1,"output_tokens":2}}}'
            )],
            Ending("stop", 1, 2),
        ),
        (
            [b'{"object":"response","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}'],
            Ending("length"),
        ),
        ([b'{"done":false}\n', b'{"error":"runner died"}\n'], Ending(failed=True)),
        ([b"half a li"], Ending()),
    ],
)  # fmt: skip
def test_the_last_lines_tell_how_an_answer_ended(lines: list[bytes], told: Ending) -> None:
    """Why it stopped, in one vocabulary, and what it cost; what was not told is not guessed."""
    assert ending(lines) == told


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"message":{"role":"assistant","content":"x"}}', True),
        (b'{"message":{"role":"assistant","content":""}}', False),
        (b'{"response":"\\n"}', True),
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}', False),
        (b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', True),
        (b'{"message":{"content":"","tool_calls": []}}', False),
        (b'data: {"delta":{"type":"text_delta","text":"x"}}', True),
        (b'{"message":{"content":"","thinking":"hm"}}', True),
        (b'{"error":"\\"content\\":\\"x\\""}', False),
    ],
)
def test_an_answer_holds_something_or_nothing(line: bytes, said: bool) -> None:
    """Text, thoughts and tool calls are something."""
    assert says(line) is said


@given(st.lists(st.binary() | st.text('{}[]",:data model').map(str.encode)))
def test_noise_ends_somehow(lines: list[bytes]) -> None:
    """Nothing that an engine says breaks the gateway."""
    assert ending(lines).failed in (True, False)
    assert not any(says(line) for line in lines if b'"' not in line)
