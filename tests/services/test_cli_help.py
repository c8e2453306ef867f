"""What the command line says of itself: help texts, their examples, and how errors are shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.main import get_command

from fleetssd.cli import app as cli
from fleetssd.errors import FleetError, Misconfigured

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def group() -> Any:
    """Return the whole command line; its verbs register themselves when it runs."""
    with pytest.raises(SystemExit):
        cli.main(["--no-such-option"])
    return get_command(cli.app)


def verbs(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk every group and verb below a command, itself included."""
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from verbs(each, *path, name)


def told(command: Any) -> list[str]:
    """Return every text that --help shows of a command."""
    texts = [command.help, command.short_help, *(getattr(each, "help", None) for each in command.params)]
    return [text for text in texts if text]


def misunderstood(group: Any, line: str) -> str | None:
    """Return the first word of a command line that is no verb and no option of its verb, or None."""
    command, words = group, line.split()[1:]
    for word in words:
        options = {name for each in command.params for name in each.opts + each.secondary_opts} | {"--help"}
        if word.startswith("-"):
            if word.partition("=")[0] not in options:
                return word
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif command is group and not re.fullmatch(r"[A-Z]+|/\S+|\S+\.toml", word):
            return word
    return None


def test_every_verb_has_help_with_an_example(group: Any) -> None:
    """An operator finds out how a verb is used without leaving the terminal."""
    leaves = {" ".join(path): command.help or "" for path, command in verbs(group) if not hasattr(command, "commands")}
    assert len(leaves) > 30
    assert [path for path, text in leaves.items() if "Example" not in text] == []


def test_no_word_of_a_help_text_is_swallowed(group: Any) -> None:
    """The terminal takes [words] for colours: no help text has any."""
    swallowed = {
        (path, text) for path, command in verbs(group) for text in told(command) if Text.from_markup(text).plain != text
    }
    assert swallowed == set()


def test_the_examples_of_help_texts_are_understood(group: Any) -> None:
    """Every command line in a help text has verbs and options that exist."""
    lines = {
        line.strip(". ")
        for _, command in verbs(group)
        for line in re.findall(r"fleetssd (?:-|[a-z])[^;|\n]*", command.help or "")
        if "Example" in (command.help or "")
    }
    assert len(lines) > 50
    assert {line: word for line in lines if (word := misunderstood(group, line))} == {}


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))])
def test_command_lines_in_the_documents_are_understood(group: Any, page: str) -> None:
    """Every `fleetssd ...` of the documents has verbs and options that exist."""
    path = ROOT / page if (ROOT / page).exists() else ROOT / "docs" / page
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", path.read_text(encoding="utf-8"), re.DOTALL))
    lines = re.findall(r"(?:`|^|; |&& )(fleetssd (?:-|[a-z])[^;|`#&\n]*)", code, re.MULTILINE)
    assert {line: word for line in lines if (word := misunderstood(group, line))} == {}


def test_the_operators_guide_names_every_verb(group: Any) -> None:
    """Whoever reads the guide hears of each verb."""
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8").partition("## Verbs")[2].partition("## ")[0]
    assert set(group.commands) - set(re.findall(r"[a-z]+", text)) == set()


def test_settings_that_the_documents_name_exist() -> None:
    """A key that was renamed is renamed in the guide, too."""
    keys: dict[str, set[str]] = {}
    table = ""
    for line in (ROOT / "config.example.toml").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"\[(\w+)\]$", line):
            table = head[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            keys.setdefault(table, set()).add(key[1])
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name != "LOG.md")]
    named = [
        (page.name, *each)
        for page in pages
        for each in re.findall(r"`(\w+)\.(\w+)(?:`| = )|\[(\w+)\] (\w+)", page.read_text(encoding="utf-8"))
    ]
    pairs = {(page, a or c, b or d) for page, a, b, c, d in named if (a or c) in keys and (b or d) != "py"}
    assert len(pairs) > 50
    assert {pair for pair in pairs if pair[2] not in keys[pair[1]]} == set()


def test_links_of_the_documents_lead_somewhere() -> None:
    """A link to a file of ours has the file, and one to a heading has the heading."""
    pages = (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"))
    links = [(each, to) for each in pages for to in re.findall(r"\]\(([^)\s]+)\)", each.read_text(encoding="utf-8"))]
    assert len(links) > 5
    assert [(each.name, to) for each, to in links if not to.startswith("http") and not leads_somewhere(each, to)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Return whether a relative link has its file and its heading."""
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists() or not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_an_error_is_shown_with_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table's name, an interval or a stray closing tag in an error is text and never a colour."""

    def fail(*_: object, **__: object) -> None:
        raise Misconfigured("no model [/x] in [engine]", hint="Set [base] weights.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == Misconfigured.exit_code
    shown = capsys.readouterr().err
    assert shown == "error: no model [/x] in [engine]\nhint: Set [base] weights.\n"


def test_an_error_without_a_hint_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is nothing to advise, nothing is advised."""

    def fail(*_: object, **__: object) -> None:
        raise FleetError("it is so")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main([])
    assert capsys.readouterr().err == "error: it is so\n"


def test_bare_fleetssd_shows_its_verbs() -> None:
    """Without a word the command line tells what it can do, and nothing is a traceback."""
    code = "from fleetssd.cli import main; main([])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "rollback" in shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr
