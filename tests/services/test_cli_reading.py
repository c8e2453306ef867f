"""The reading verbs over a real database: text for people, JSON for programs, exit codes for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint, StageRow, Swap, VerdictRow
from fleetssd.cli import config, nights, serving  # noqa: F401  the verbs register themselves
from fleetssd.cli.app import main

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ONE = "b" * 64, "c" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with a settings file, a token and no database yet."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "f.toml").write_text(
        'data_dir = "data"\n[forge]\nurl = "http://forge:3000"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["o/r"]\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture
def lived(folder: Path) -> Path:
    """Return the same folder after a night that was promoted and flipped to, and one that failed."""
    store = SqlStore.open(f"sqlite:///{folder / 'data' / 'fleetssd.sqlite3'}")
    for digest, kind, night in ((BASE, "base", None), (ONE, "merged", 1)):
        kind_: Any = kind
        store.put_checkpoint(Checkpoint(digest, kind_, f"m:{kind}", f"s{kind}", night, "none", 0.4, 1, NOW))
    store.open_night({"night": 1, "incumbent": BASE, "train": []}, "ssd", NOW - timedelta(hours=4))
    store.finish_stage(StageRow(1, "sample", {}, NOW, NOW + timedelta(seconds=61)))
    score = {"point": 0.364, "low": 0.3, "high": 0.4}
    arms = [{"name": "candidate", "pass_1": score, "pass_k": score}]
    evidence = {"arms": arms, "k": 8, "lift": score}
    store.decide(VerdictRow(1, "promote", "it [moved]", ONE, evidence, NOW), [], NOW)
    store.open_night({"night": 2}, "ssd", NOW)
    store.fail_night(2, "no disk", NOW)
    swap = store.begin_swap(Swap(0, "flip", "dawn", BASE, ONE, "m:merged", 1, "promoted"), NOW)
    store.finish_swap(swap.id, NOW, {"x": 1})
    store.close()
    return folder


def call(folder: Path, *arguments: str) -> int:
    """Run a verb and return its exit code."""
    try:
        main(["--config", str(folder / "f.toml"), *arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def read(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a verb with --json and return what it printed."""
    assert call(folder, *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (("status",), "nothing known yet"),
        (("nights",), "No night yet."),
        (("swaps",), "No swap yet"),
        (("records",), "No record yet."),
        (("records", "--refused"), "Nothing was refused."),
        (("calls",), "No such call on file."),
        (("calls", "--by-checkpoint"), "No call since"),
        (("canary", "status"), "No canary yet."),
    ],
)
def test_empty_database_can_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...], said: str
) -> None:
    """Before anything happened every reading verb says so, and has JSON for programs."""
    assert call(folder, *verb) == 0
    assert said in capsys.readouterr().out
    read(folder, capsys, *verb)


def test_status_tells_the_served_digest(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The served digest is one key away for a program, and on the first line for a person."""
    found = read(lived, capsys, "status")
    assert (found["served"]["digest"], found["served"]["served_digest"]) == (ONE, "smerged")
    assert (found["previous"]["digest"], found["pending"], found["last_night"]["number"]) == (BASE, None, 2)
    assert call(lived, "status") == 0
    assert "cccccccccccc" in capsys.readouterr().out.splitlines()[0]


def test_nights_are_listed(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both nights are there with their verdicts, or with why there is none."""
    found = read(lived, capsys, "nights")
    assert [(line["number"], line["verdict"], line["reason"]) for line in found] == [
        (1, "promote", "it [moved]"),
        (2, None, "no disk"),
    ]
    assert call(lived, "nights") == 0
    text = capsys.readouterr().out
    assert "promote" in text
    assert "failed" in text
    assert "36.4" in text


def test_one_night_is_shown(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A night shows its stages and its reason, brackets and all."""
    found = read(lived, capsys, "nights", "show", "1")
    assert found["stages"][1] == {"stage": "sample", "seconds": 61.0}
    assert call(lived, "nights", "show", "1") == 0
    text = capsys.readouterr().out
    assert "it [moved]" in text
    assert "61.0" in text
    assert ONE[:20] in text


def test_a_night_says_of_which_round_it_is(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose work taught is counted by round, as it was frozen into the plan."""
    store = SqlStore.open(f"sqlite:///{lived / 'data' / 'fleetssd.sqlite3'}")
    store.open_night({"night": 3, "rounds": {"0": 7, "1": 2, "unknown": 1}}, "merged", NOW)
    store.close()
    found = read(lived, capsys, "nights", "show", "3")
    assert (found["round"], found["rounds"]) == (2, {"0": 7, "1": 2, "unknown": 1})
    assert call(lived, "nights", "show", "3") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2; taught by 7 of the base, 2 of round 1, 1 of nobody knows which checkpoint" in text
    assert "held-out issues, percent" not in text  # nobody was asked yet
    assert "caution" not in text  # the plan says too little


def test_unknown_night_is_refused(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A night that never was is an error with a hint, not an empty table."""
    assert call(lived, "nights", "show", "9") == 1
    assert "there is no night 9" in capsys.readouterr().err


def test_swaps_are_listed(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log tells from, to, why and whether it is proven."""
    (line,) = read(lived, capsys, "swaps")
    assert (line["from"], line["to"], line["reason"], line["evidence"], line["done"]) == (
        BASE, ONE, "promoted", {"x": 1}, True,
    )  # fmt: skip
    assert call(lived, "swaps") == 0
    assert "flip" in capsys.readouterr().out


def test_missing_settings_exit_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a settings file a verb says which one is missing and leaves with 78."""
    assert call(tmp_path, "status") == 78
    assert "no settings file" in capsys.readouterr().err


def test_damaged_database_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A database that is none is a sentence and a hint, never a traceback."""
    (folder / "data").mkdir()
    (folder / "data" / "fleetssd.sqlite3").write_bytes(b"no database" * 99)
    assert call(folder, "status") == 1
    said = capsys.readouterr().err
    assert "not a database" in said
    assert "hint:" in said


def test_good_settings_check_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checks of files and database are ok where they are, and the token is not repeated."""
    call(folder, "config", "check", "--json")
    found = {line["check"]: line["ok"] for line in json.loads(capsys.readouterr().out)}
    assert found["data_dir can be written"]
    assert found["database opens"]
    assert found["forge.token_file holds a token"]
    call(folder, "config", "check")
    assert "secret-token" not in "".join(capsys.readouterr())


def test_what_the_first_night_will_need_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A base that is named nowhere is no fault of the settings, and no surprise at night."""
    plain = call(folder, "config", "check")
    assert capsys.readouterr().err.count("later: a night needs the base at ") == 2
    (folder / "data" / "base" / "hf").mkdir(parents=True)
    (folder / "data" / "base" / "base.gguf").touch()
    assert call(folder, "config", "check") == plain
    assert "later:" not in capsys.readouterr().err


def test_what_the_evidence_does_not_cover_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too cold a product of temperatures, and few prompts, are cautions beside the checks and change no exit code."""
    plain = call(folder, "config", "check")
    assert "T_train" not in capsys.readouterr().err
    with (folder / "f.toml").open("a") as file:
        file.write("[recipe]\nprompts = 24\nt_train = 0.2\n")
    assert call(folder, "config", "check") == plain
    said = capsys.readouterr().err
    assert "caution: 24 prompts are below the evidence" in said
    assert "caution: T_train times T_eval is 0.2, outside 0.8 to 1.8" in said


def spoil_missing(path: Path) -> None:
    """Take the token away."""
    path.unlink()


def spoil_empty(path: Path) -> None:
    """Empty the token."""
    path.write_text("\n")


def spoil_open(path: Path) -> None:
    """Let everyone read the token."""
    path.chmod(0o644)


def spoil_folder(path: Path) -> None:
    """Put a folder in the token's place."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_missing, "no file at"),
        (spoil_empty, "is empty"),
        (spoil_open, "everyone on this machine"),
        (spoil_folder, "cannot read"),
    ],
)
def test_bad_token_file_exits_78(folder: Path, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str) -> None:
    """A token that cannot be used is found before the first poll, with what to do."""
    spoil(folder / "token")
    assert call(folder, "config", "check") == 78
    said = capsys.readouterr().out
    assert sentence in said
    assert "hint:" in said


def test_data_dir_that_cannot_be_made_exits_78(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data folder below a file is said in one line each for what needs it."""
    (folder / "data").touch()
    assert call(folder, "config", "check") == 78
    assert "wrong data_dir can be written" in capsys.readouterr().out


def test_missing_base_files_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The base's files are looked for where settings name them."""
    with (folder / "f.toml").open("a") as file:
        file.write('[base]\ngguf = "absent.gguf"\nweights = "."\n')
    assert call(folder, "config", "check", "--json") == 78
    found = {line["check"]: line["error"] for line in json.loads(capsys.readouterr().out)}
    assert found["base.weights is there"] is None
    assert "absent.gguf" in found["base.gguf is there"]


def test_reading_verbs_import_no_training_stack() -> None:
    """A reading verb is quick: it loads neither the training stack nor plots."""
    code = (
        "import sys; from fleetssd.cli import nights, serving, config; "
        "print([m for m in ('torch', 'transformers', 'trl', 'peft', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
