"""`fleetssd gateway key`: keys are shown once, kept as hashes, and gone when they are removed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from fleetssd.cli.app import main
from fleetssd.config import load
from fleetssd.keys import read_keys, whose
from fleetssd.wiring import open_keys

SETTINGS = """
data_dir = "data"
[forge]
url = "http://forge.test"
token_file = "token"
[fleet]
agents = ["bot"]
repositories = ["*"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return settings that name a key file."""
    path = tmp_path / "config.toml"
    path.write_text(SETTINGS + '[gateway]\nkeys_file = "keys/gateway"\n')
    return path


def run(config: Path, *words: str) -> None:
    """Run a verb of `gateway key`."""
    main(["--config", str(config), "gateway", "key", *words])


def test_a_key_is_shown_once_and_kept_as_a_hash(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the key alone; the file opens for its owner alone and does not hold it."""
    run(config, "add", "agent-7")
    told = capsys.readouterr()
    key, file = told.out.strip(), config.parent / "keys" / "gateway"
    assert whose(read_keys(file.read_text()), key) == "agent-7"
    assert key not in told.err + file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_are_listed_and_removed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By agent or by id; what is left still opens."""
    for name in ("agent-7", "agent-7", "agent-8"):
        run(config, "add", name, "--json")
    made = [json.loads(text) for text in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0")]
    run(config, "list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert [row["agent"] for row in listed] == ["agent-7", "agent-7", "agent-8"]
    assert not {"key", "sha256"} & set(listed[0])
    run(config, "remove", made[0]["id"])
    run(config, "remove", "agent-8")
    run(config, "list")
    assert "agent-8" not in capsys.readouterr().out.split("API keys")[1]
    keys = open_keys(load(config))
    assert keys is not None
    assert [whose(keys.read(), row["key"]) for row in made] == [None, "agent-7", None]


def test_what_cannot_be_done_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name, and settings that name no key file."""
    with pytest.raises(SystemExit):
        run(config, "remove", "nobody")
    config.write_text(SETTINGS)
    with pytest.raises(SystemExit) as refused:
        run(config, "list")
    assert refused.value.code == 78
    assert "keys_file" in capsys.readouterr().err
