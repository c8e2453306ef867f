"""The audit of real folders, by the command line: what is read, what is told, what is left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters import folders
from fleetssd.adapters.folders import read_folders
from fleetssd.cli import main
from fleetssd.cli.app import out
from fleetssd.config import load
from fleetssd.errors import Misconfigured

SAMPLES = Path(__file__).parents[1] / "samples" / "audit"


def call(*words: str) -> int:
    """Run the command line and return its exit code."""
    try:
        main([*words])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def settings(folder: Path, more: str = "") -> Path:
    """Write a settings file."""
    path = folder / "f.toml"
    path.write_text(
        'data_dir = "data"\n[forge]\nurl = "http://forge:3000"\ntoken_file = "token"\n'
        f'[fleet]\nagents = ["a"]\nrepositories = ["o/r"]\n{more}'
    )
    return path


def test_the_table_reads_from_top_to_bottom(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """First the sentence, then how many settings do what, then every one with its place; no secret among them."""
    monkeypatch.setattr(out, "_width", 200)  # a console may have read COLUMNS before this test
    assert call("audit", str(SAMPLES)) == 0
    said = capsys.readouterr().out
    flat = " ".join(said.split())
    assert flat.startswith("The fleet is served at T = 1.0 (hermes/config.yaml:5)")
    assert "masked (would, but is outranked)" in flat
    assert said.index("hermes/config.yaml:5") < said.index("serving/Modelfile:2") < said.index("hermes/.env:3")
    assert "hunter2" not in said


def test_a_narrow_terminal_cuts_nothing_off(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Long words are folded, so that every place keeps its line."""
    monkeypatch.setattr(out, "_width", 80)
    assert call("audit", str(SAMPLES)) == 0
    assert "…" not in capsys.readouterr().out


def test_json_has_every_field_of_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get file, line, key, value, layer, effect and who decides it."""
    assert call("audit", str(SAMPLES / "serving" / "Modelfile"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["effective"] == {"yes": 3, "masked": 2, "inert": 0, "unknown": 0}
    (masked,) = (f for f in told["findings"] if f["key"] == "temperature")
    assert (masked["file"], masked["line"], masked["value"], masked["layer"]) == ("Modelfile", 2, "0.4", "serve")
    assert "/v1" in masked["by"]


def test_the_folders_of_the_settings_are_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments decode.audit_folders are scanned, relative to the settings file; with neither it says so."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "Modelfile").write_text("PARAMETER temperature 0.2\n")
    path = settings(tmp_path, '[decode]\nmanage = "gateway"\ntemperature = 0.4\naudit_folders = ["agents"]\n')
    assert load(path).decode.audit_folders == (tmp_path / "agents",)
    assert call("--config", str(path), "audit", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["by"] == "fleetssd's gateway, which sends 0.4 where the caller sends none"
    assert call("--config", str(settings(tmp_path)), "audit") == 78
    assert call("audit") == 78
    assert "nothing to audit" in capsys.readouterr().err


def test_a_label_without_an_issue_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What would be told to nobody is not left out in silence: exit code 78, and the option that is missing."""
    assert call("audit", str(Path(__file__)), "--label", "audit") == 78
    assert "--file-issue" in capsys.readouterr().err


def test_what_no_settings_file_is_stays_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links, pipes, binaries, other encodings and heaps are told; repositories' own folders are not entered."""
    text = "temperature: 0.1\n"
    for name in ("a.yaml", ".git/b.yaml", "node_modules/c.yaml", "sub/d.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "a.yaml")
    (tmp_path / "around").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"temperature: 0.1\n\0")
    (tmp_path / "latin.yaml").write_bytes("tempe\xe9: 1\n".encode("latin-1"))
    (tmp_path / "large.yaml").write_text(text + "#" * folders.FILE_BYTES)
    (tmp_path / "auth.json").write_text('{"temperature": 0.1}')
    (tmp_path / "odd\x1b[31m.yaml").write_text(text)
    reading = read_folders([tmp_path])
    assert [source.name for source in reading.sources] == ["a.yaml", "odd?[31m.yaml", "sub/d.yaml"]
    assert {each.file: each.reason for each in reading.skipped} == {
        "binary.yaml": "binary", "large.yaml": "larger than 512 kB", "latin.yaml": "binary",
        "link.yaml": "a link; name what it points to", "pipe.yaml": "no regular file",
        "around": "a link; name what it points to",
    }  # fmt: skip
    assert call("audit", str(tmp_path)) == 0
    assert "not read: pipe.yaml: no regular file" in capsys.readouterr().err


def test_a_folder_may_be_named_by_a_link_and_a_file_by_itself(tmp_path: Path) -> None:
    """What a person names is meant, wherever it points; two folders keep their names apart."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.env").write_text("A_TEMPERATURE=1\n")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    (tmp_path / "photo.png").write_text("x")
    assert [s.name for s in read_folders([tmp_path / "link"]).sources] == ["x.env"]
    named = read_folders([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "x.env", tmp_path / "photo.png"])
    assert [s.name for s in named.sources] == ["one/x.env", "two/x.env", "one/x.env"]
    assert [each.reason for each in named.skipped] == ["a file of an unknown kind"]
    (tmp_path / "two" / "one").mkdir()
    (tmp_path / "two" / "one" / "x.env").write_text("A_TEMPERATURE=1\n")
    alike = read_folders([tmp_path / "one", tmp_path / "two" / "one"])
    assert [s.name for s in alike.sources] == ["one/x.env", "two/one/x.env"]
    apart = read_folders([tmp_path / "one", Path(os.devnull)])
    assert [s.name for s in apart.sources] == [str(tmp_path / "one" / "x.env")]
    with pytest.raises(Misconfigured, match="nothing at"):
        read_folders([tmp_path / "none"])


def test_a_look_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many files or bytes end the look, and it says where."""
    for name in "abcd":
        (tmp_path / f"{name}.env").write_text("A_TOP_P=1\n")
    monkeypatch.setattr(folders, "FILES", 3)
    monkeypatch.setattr(folders, "ALL_BYTES", 25)
    reading = read_folders([tmp_path])
    assert [source.name for source in reading.sources] == ["a.env", "b.env"]
    assert ["name less" in each.reason for each in reading.skipped] == [True, True]
