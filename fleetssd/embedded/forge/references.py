"""Find what a text refers to: issue numbers, their repositories, and whether a keyword closes or reopens them.

Rules as observed on Gitea 1.26 and 1.22; `tests/samples/gitea/closing_keywords.json` has sixty forms and their answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CLOSE = ("close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "resolved")
REOPEN = ("reopen", "reopens", "reopened")

# A change of inline markup ends one run of text and starts another: a keyword and its number must share a run.
_RUN = "\x00"
# Stands where an escaped character was; it joins nothing and delimits nothing.
_ESCAPED = "\x01"

_SPACE = r" \t\n\r\f"  # ASCII white space only: a no-break space delimits nothing
_BEFORE = rf"(?:^|(?<=[{_SPACE}(\[{_RUN}]))"
_BEFORE_QUOTED = rf"(?:^|(?<=[{_SPACE}(\['\"{_RUN}]))"
_AFTER = rf"(?=$|[{_SPACE})\]{_RUN}]|[:;,.?!](?:$|[{_SPACE}{_RUN}]))"
_AFTER_QUOTED = rf"(?=$|[{_SPACE})\]'\"{_RUN}]|[:;,.?!](?:$|[{_SPACE}{_RUN}]))"
_REFERENCE = re.compile(
    rf"{_BEFORE}(?P<owner>[0-9a-zA-Z\-_.]+)/(?P<name>[0-9a-zA-Z\-_.]+)[#!](?P<far>[0-9]+){_AFTER}"
    rf"|{_BEFORE_QUOTED}[#!](?P<near>[0-9]+){_AFTER_QUOTED}"
)
_KEYWORD = re.compile(
    rf"(?:^|[{_SPACE}(\[{_RUN}])(?P<word>{'|'.join((*CLOSE, *REOPEN))}):? \Z", re.IGNORECASE | re.ASCII
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)[^\n]*\n.*?(?:^ {0,3}\1[^\n]*$|\Z)", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:\A|(?<=\n\n))(?:(?: {4}|\t)[^\n]*(?:\n|\Z))+")
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_ESCAPE = re.compile(r"\\[!-/:-@\[-`{-~]")
_LINK = re.compile(r"\[[^\]\n]*\]\(\s*<?([^\s)>]+)>?[^)\n]*\)")
_ADDRESS = re.compile(r"https?://[^\s<>()\[\]\"']+")
_MARKS = re.compile(r"\*+|~~|(?<![0-9a-zA-Z])_+|_+(?![0-9a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Reference:
    """One mention: `owner` and `name` are empty for the text's own repository; action is closes, reopens or none."""

    owner: str
    name: str
    number: int
    action: str = "none"


def in_title(text: str) -> list[Reference]:
    """Find the references of a plain text such as a title."""
    return _merged(_scan(text))


def in_body(text: str, *, root_url: str = "", links_close: bool = True) -> list[Reference]:
    """Find the references of a markdown text; without `links_close` an address only mentions (1.22)."""
    plain = _without_code(text.replace("\r\n", "\n"))
    mentioned = [] if links_close else [_address(match[0], root_url) for match in _ADDRESS.finditer(plain)]
    plain = _LINK.sub(lambda match: _address(match[1], root_url) if links_close else _RUN, plain)
    plain = _ADDRESS.sub(lambda match: _address(match[0], root_url) if links_close else _RUN, plain)
    plain = _MARKS.sub(_RUN, plain)
    quiet = [Reference(r.owner, r.name, r.number) for place in mentioned for r in _scan(place)]
    return _merged(_scan(plain) + quiet)


def combined(texts: list[list[Reference]]) -> list[Reference]:
    """Join what title and body refer to; the first action that is not `none` wins for each issue."""
    return _merged([reference for text in texts for reference in text])


def _without_code(text: str) -> str:
    for pattern in (_COMMENT, _FENCE, _INDENTED, _CODE):
        text = pattern.sub(_RUN, text)
    return _ESCAPE.sub(_ESCAPED, text)


def _address(address: str, root_url: str) -> str:
    """Rewrite the address of one of this server's issues to `owner/name#n`; any other refers to nothing."""
    place = root_url.rstrip("/").partition("://")[2]
    match = re.match(
        rf"https?://{re.escape(place)}/([^/\s]+)/([^/\s]+)/(?:issues|pulls)/([0-9]+)(?:[#?][^\s]*)?([:;,.?!]?)\Z",
        address,
    )
    return f"{match[1]}/{match[2]}#{match[3]}{match[4]}" if place and match else _RUN


def _scan(text: str) -> list[Reference]:
    found = []
    for match in _REFERENCE.finditer(text):
        keyword = _KEYWORD.search(text, 0, match.start())
        action = "none"
        if keyword:
            action = "closes" if keyword["word"].lower() in CLOSE else "reopens"
        owner, name = (match["owner"] or "").lower(), (match["name"] or "").lower()
        found.append(Reference(owner, name, int(match["near"] or match["far"]), action))
    return found


def _merged(found: list[Reference]) -> list[Reference]:
    kept: dict[tuple[str, str, int], Reference] = {}
    for reference in found:
        key = (reference.owner, reference.name, reference.number)
        if key not in kept or (kept[key].action == "none" and reference.action != "none"):
            kept[key] = reference
    return list(kept.values())
