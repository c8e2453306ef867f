"""Chat templates: which Jinja texts are chatml, how chatml renders, and what is refused as a Go template.

Of Go's template language only chatml is rendered here; any other model is rendered by llama.cpp with the Jinja text
in its GGUF file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
CHATML_STOPS = ("<|im_start|>", "<|im_end|>")
DEFAULT = "{{ .Prompt }}"
_KNOWN_JINJA = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_NEAR = 100  # edits; further away than this a template counts as unknown
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_FUNCTION = re.compile(r"([A-Za-z_]\w*)")
_GO_WORDS = frozenset(
    (
        "range",
        "if",
        "else",
        "end",
        "with",
        "define",
        "template",
        "block",
        "break",
        "continue",
        "and",
        "or",
        "not",
        "len",
        "index",
        "print",
        "printf",
        "println",
        "html",
        "js",
        "urlquery",
        "call",
        "slice",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "json",
        "currentDate",
        "yesterdayDate",
        "toTypeScriptType",
        "true",
        "false",
        "nil",
    )
)

Message = dict[str, Any]


def is_chatml(jinja: str) -> bool:
    """Whether a Jinja chat template is chatml, by edit distance to the usual text."""
    if not jinja or abs(len(jinja) - len(_KNOWN_JINJA)) >= _NEAR:
        return False
    return edit_distance(jinja, _KNOWN_JINJA) < _NEAR


def edit_distance(left: str, right: str) -> int:
    """Count the insertions, deletions and replacements between two texts (Levenshtein, 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def go_template_error(text: str) -> str | None:
    """Say what Go's parser says of `text`, for the mistake that people make: Jinja sent as a template."""
    for action in _ACTION.finditer(text):
        word = _FUNCTION.match(action[1])
        if word and word[1] not in _GO_WORDS:
            line = text.count("\n", 0, action.start()) + 1
            return f'template error: template: :{line}: function "{word[1]}" not defined'
    return None


def collated(messages: Sequence[Message]) -> list[Message]:
    """Join neighbours of one role with an empty line, as the server does before it renders."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] != "tool":
            joined[-1]["content"] += "\n\n" + message["content"]
        else:
            joined.append({"role": message["role"], "content": message["content"]})
    return joined


def render_chatml(messages: Sequence[Message]) -> str:
    """Render messages and open the assistant's turn."""
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in collated(messages))
    return "".join(turns) + "<|im_start|>assistant\n"


def render_plain(messages: Sequence[Message]) -> str:
    """Render for a model that has no template at all: prompts and answers one after the other."""
    return "".join(m["content"] for m in collated(messages) if m["role"] != "system")
