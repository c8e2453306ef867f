"""What the processes say where they cannot begin, and what the command line shows of them."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from fleetssd import wiring
from fleetssd.adapters.rich_bar import bar
from fleetssd.cli import processes  # noqa: F401  the verbs register themselves
from services import daemon, embedded_ollama, gateway
from tests.services.test_cli_reading import call, folder  # noqa: F401  a fixture and a reader


@pytest.fixture
def taken() -> Iterator[int]:
    """Yield a port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def settings(folder: Path, more: str) -> Path:  # noqa: F811
    """Return the settings file with more in it; nobody answers where its forge and its engine should be."""
    path = folder / "f.toml"
    text = path.read_text(encoding="utf-8").replace("http://forge:3000", "http://127.0.0.1:9")
    path.write_text(f'{text}[engine]\nurl = "http://127.0.0.1:9"\n{more}', encoding="utf-8")
    return path


@pytest.mark.parametrize(("service", "table"), [(daemon, "web"), (gateway, "gateway")])
def test_a_taken_port_ends_a_service_before_it_does_anything(
    folder: Path,  # noqa: F811
    taken: int,
    capsys: pytest.CaptureFixture[str],
    service: object,
    table: str,
) -> None:
    """One line says which address and which settings, with 78: no poll, no night, and no restart by systemd."""
    path = settings(folder, f"[{table}]\nport = {taken}\n")
    assert service.main(["--config", str(path)]) == 78  # type: ignore[attr-defined]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1:{taken}" in line
    assert f"[{table}] host and port" in line


def test_the_embedded_engine_says_in_one_line_why_it_does_not_start(
    tmp_path: Path, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A taken port and a folder that cannot be: 78, and no traceback."""
    (tmp_path / "file").touch()
    for arguments in (
        ["--port", str(taken), "--data", str(tmp_path)],
        ["--port", "0", "--data", str(tmp_path / "file/x")],
    ):
        assert embedded_ollama.main(arguments) == 78
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_night_that_stops_is_told_as_any_error(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sentence, a hint and the night's exit code; folders named like our packages where one stands change nothing."""
    settings(folder, "")
    for name in ("services", "fleetssd"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
    monkeypatch.chdir(folder)
    assert call(folder, "night", "--now") == 75
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: no engine answers at http://127.0.0.1:9\nhint: Is Ollama running?" in said.err
    assert '"event"' not in said.err


def test_warnings_of_a_verb_are_words_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """What --json prints stays JSON: a repeated request is said beside it, and what is in order not at all."""
    wiring.configure_talking()
    log = structlog.get_logger()
    log.info("engine_probed", loads=True)
    log.warning("room_is_short", folder="x")
    log.warning("stamina.retry_scheduled", wait_for=0.61, caused_by="Transient('it is away (ConnectError)')", args=())
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "warning: room is short folder=x\nasking again in 0.6 s: it is away (ConnectError)\n"


def test_every_line_of_a_services_log_is_json() -> None:
    """What a library warns of is an event like ours, its traceback in the same line."""
    code = (
        "import logging; from fleetssd import wiring; wiring.configure_logging()\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('library').exception('it %s', 'broke')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    (line,) = map(json.loads, shown.stderr.splitlines())
    assert (line["event"], line["level"]) == ("it broke", "error")
    assert "ZeroDivisionError" in line["exception"]


def test_a_night_that_cannot_write_is_told_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """A data folder that cannot be made is a setting to mend: 78, one line, and no traceback."""
    settings(folder, "")
    (folder / "data").touch()
    assert call(folder, "night", "--now") == 78
    said = capsys.readouterr().err
    assert "error: cannot write" in said
    assert "hint: Set data_dir" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("demo", "--dir", "{folder}/token/demo"), "token/demo: Not a directory"),
        (("guards", "--check", "{folder}/absent.jsonl"), "absent.jsonl: No such file or directory"),
        (("audit", "{folder}", "--ollama", "nonsense"), "'nonsense' is no server's address"),
    ],
)
def test_what_an_operator_got_wrong_is_a_sentence(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    """A folder, a file or an address that is not to be had ends with 78, the name in question and a hint."""
    assert call(folder, *(word.format(folder=folder) for word in words)) == 78
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert sentence in error
    assert hint.startswith("hint: ")


def test_a_value_of_the_settings_is_refused_in_plain_words(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The key, and how to write it: nothing of how the settings are read."""
    settings(folder, '[schedule]\nnight = "25:00"\n')
    assert call(folder, "status") == 78
    assert "error: settings: schedule.night: write it as HH:MM, for example 02:00\n" in capsys.readouterr().err


def test_a_long_wait_says_how_long_it_will_take() -> None:
    """The bar of a night shows what is done of how much, and an ETA."""
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=120)
    with bar(screen) as shown:
        shown.add_task("answers of candidate", total=1600, completed=400)
    text = written.getvalue()
    assert "answers of candidate" in text
    assert "400/1600" in text
    assert "ETA" in text
