"""Text made safe to keep and to show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.texts import filled, folded, neutral

ANY = st.text(st.characters(), max_size=60)


@given(ANY)
def test_neutral_text_can_be_stored_and_stays(text: str) -> None:
    """What is neutral is UTF-8, has no control but tab and newline, and is not changed again."""
    clean = neutral(text)
    clean.encode()
    assert all(character in "\n\t" or character.isprintable() or ord(character) > 0x9F for character in clean)
    assert neutral(clean) == clean


def test_line_ends_become_plain() -> None:
    """A prompt has newlines only; code keeps its own line ends."""
    assert neutral("a\r\nb\rc") == "a\nb\nc"
    assert neutral("a\r\nb\x0c\x07", keep="\r\f") == "a\r\nb\x0c<U+0007>"


def test_reordering_marks_are_shown() -> None:
    """A right-to-left override is text that everybody sees."""
    assert neutral("x\u202ey\u200bz\U000e0041") == "x<U+202E>y<U+200B>z<U+E0041>"


def test_joiners_stay() -> None:
    """Scripts and emoji need the joiners."""
    assert neutral("\u0915\u094d\u200d\u0937 👩\u200d🚀") == "\u0915\u094d\u200d\u0937 👩\u200d🚀"


@given(ANY, ANY)
def test_filling_never_reads_a_value_again(title: str, body: str) -> None:
    """A value that looks like a place stays as it is."""
    assert filled("{title}|{body}", {"title": title, "body": body}) == f"{title}|{body}"


@given(ANY)
def test_folding_is_stable(text: str) -> None:
    """Case and spaces do not tell near-duplicates apart."""
    assert folded("  " + text.upper() + "\n") == folded(text.upper())
    assert folded(folded(text)) == folded(folded(folded(text)))
