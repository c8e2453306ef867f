"""Secrets are taken out of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.adapters.secrets import DetectSecrets
from fleetssd.errors import Misconfigured
from fleetssd.toy.work import some_work

REDACT = DetectSecrets(["corp-[0-9]{4}"])


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("token = 'ghp_abcdefghijklmnopqrstuvwxyz0123456789'", "abcdefghijkl"),
        ("use ghp_abcdefghijklmnopqrstuvwxyz0123456789 here", "abcdefghijkl"),
        ('+aws = "AKIAIOSFODNN7EXAMPLE"', "AKIA"),
        ('password = "hunter2hunter2"', "hunter2"),
        ("https://user:pa55word@host/x", "pa55word"),
        ("the key is corp-1234.", "corp-1234"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIsecret\n-----END RSA PRIVATE KEY-----", "MIIsecret"),
        ("-----BEGIN PRIVATE KEY-----\nMIIsecret", "MIIsecret"),
    ],
)
def test_a_secret_is_redacted(line: str, secret: str) -> None:
    """Tokens, passwords, keys and the operator's own patterns leave no part behind."""
    clean, found = REDACT(f"before\n{line}\nafter")
    assert secret not in clean
    assert clean.startswith("before\n")
    assert (found > 0, "<redacted>" in clean) == (True, True)


def test_ordinary_work_has_no_secrets() -> None:
    """The demo's issues, solutions and tests pass unchanged."""
    texts = [text for item in some_work(1, 40) for text in (item.title, item.body, item.after, item.test)]
    assert [REDACT(text) for text in texts] == [(text, 0) for text in texts]


@given(st.text(alphabet="abc =+-*/()[]:,.\n\t0123456789", max_size=200))
def test_lines_stay_lines(text: str) -> None:
    """Redacting never joins or drops lines."""
    assert REDACT(text)[0].count("\n") == text.count("\n")


def test_a_bad_pattern_is_named() -> None:
    """A pattern that is no regular expression is a misconfiguration."""
    with pytest.raises(Misconfigured, match="secret_patterns"):
        DetectSecrets(["("])
