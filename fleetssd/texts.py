"""Text that people and programs wrote elsewhere, made safe to keep and to show."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Controls, marks that reorder or hide text, tag characters, and halves of surrogate pairs (JSON can carry them, UTF-8
# cannot). The joiners U+200C and U+200D stay: scripts and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def neutral(text: str, *, keep: str = "") -> str:
    """Write every character that hides, reorders or controls text as `<U+202E>`; line ends become plain.

    Characters of `keep` stay as they are (for code, where a carriage return is content).
    """
    if "\r" not in keep:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNSEEN.sub(lambda m: m[0] if m[0] in keep else f"<U+{ord(m[0]):04X}>", text)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Put values into `{name}` places in one pass: braces inside a value are text, unknown places stay."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def folded(text: str) -> str:
    """Return a text as its near-duplicates share it: letter case, spaces and line ends folded."""
    return " ".join(text.casefold().split())


_TO_THE_MODEL = re.compile(
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id|fim_\w+)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|\b(?:ignore|disregard|forget|override)\s+(?:(?:all|any|the|your|of|these|those|my)\s+)*"
    r"(?:previous|prior|above|earlier|preceding|foregoing|system)\s+(?:instructions?|prompts?|rules|directions|messages?)"
    r"|\b(?:reveal|print|repeat|output)\s+(?:me\s+)?(?:your|the)\s+(?:hidden\s+|full\s+)?system\s+prompt"
    r"|\byou\s+are\s+now\s+(?:in\s+)?(?:developer\s+mode|dan\b|jailbroken|unrestricted)",
    re.IGNORECASE,
)
_SHOWN = re.compile(r"<U\+[0-9A-F]{4,6}>|[\u200c\u200d]")


def injected(text: str) -> bool:
    """Tell whether a text speaks to a model: a chat template's own marks, or words that set its instructions aside.

    A heuristic: it finds the known forms, also where unseen characters were put between the letters.
    """
    return bool(_TO_THE_MODEL.search(text) or _TO_THE_MODEL.search(_SHOWN.sub("", text)))
