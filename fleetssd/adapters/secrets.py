"""detect-secrets behind one call: take the secrets out of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fleetssd.errors import Misconfigured

REDACTED = "<redacted>"

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# The detectors take a quarter of a millisecond a line. A line without a long token, a telling word or an address
# with a password cannot interest them, and most lines of code have none.
_SUSPECT = re.compile(
    r"[A-Za-z0-9+/=_.-]{16}|pass|pwd|secret|token|api_?key|auth|private|credential|://[^/\s]*@", re.IGNORECASE
)
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]")


class DetectSecrets:
    """Redacts what detect-secrets' detectors and the operator's own patterns find; it never goes to the network.

    Raises Misconfigured where a pattern is no regular expression.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        try:
            self.patterns = tuple(re.compile(pattern) for pattern in patterns)
        except re.error as error:
            raise Misconfigured(
                f"records.secret_patterns: {error.pattern!r} is no regular expression: {error}",
                hint="Mend the pattern; it is searched for with Python's re module.",
            ) from None
        self._line = lru_cache(maxsize=65536)(_redact_line)

    def __call__(self, text: str) -> tuple[str, int]:
        """Return the text without its secrets, and how many there were."""
        text, found = _KEY_BLOCK.subn(REDACTED, text)
        for pattern in self.patterns:
            text, more = pattern.subn(REDACTED, text)
            found += more
        lines = []
        for line in text.split("\n"):
            clean, more = self._line(line) if _SUSPECT.search(line) else (line, 0)
            lines.append(clean)
            found += more
        return "\n".join(lines), found


def _redact_line(line: str) -> tuple[str, int]:
    found = 0
    for value in sorted(_values(line), key=len, reverse=True):
        start = line.find(value)
        if start >= 0:
            end = start + len(value)
            # Some detectors report only the beginning of a token: take the whole run of token characters.
            while start > 0 and _TOKEN.match(line[start - 1]):
                start -= 1
            while end < len(line) and _TOKEN.match(line[end]):
                end += 1
            line, found = line[:start] + REDACTED + line[end:], found + 1
    return line, found


def _values(line: str) -> set[str]:
    """Return the secrets that the detectors see in a line."""
    plugins, filters = _detectors()
    values: set[str] = set()
    for plugin in plugins:
        for secret in plugin.analyze_line(filename="record", line=line, line_number=1):
            value = secret.secret_value
            if value and not any(check(value) for check in filters):
                values.add(value)
    return values


@lru_cache(maxsize=1)
def _detectors() -> tuple[list[Any], list[Any]]:
    # Loaded on first use. The plugins are called by hand, since detect-secrets' own scan may ask a token's issuer.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class  # noqa: PLC0415
    from detect_secrets.filters import heuristic  # noqa: PLC0415

    classes = get_mapping_from_secret_type_to_class().values()
    plugins = [plugin() for plugin in classes if plugin.__name__ != "IPPublicDetector"]
    checks = [heuristic.is_sequential_string, heuristic.is_potential_uuid, heuristic.is_templated_secret]
    return plugins, [*checks, heuristic.is_not_alphanumeric_string, heuristic.is_prefixed_with_dollar_sign]
