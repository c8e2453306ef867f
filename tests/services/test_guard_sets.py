"""Guard sets as files, and the lm-evaluation-harness as a command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from fleetssd.adapters.guard_sets import read_guards
from fleetssd.adapters.lm_eval import LmEval
from fleetssd.config import Guards
from fleetssd.errors import Corrupt, Misconfigured, Transient
from fleetssd.guards.harness import TaskScore

RECORDED = Path(__file__).parents[1] / "samples" / "lm_eval" / "results.json"
ITEM = '{"id": "x", "prompt": "Say a.", "check": {"kind": "exact", "answers": ["a"]}, "good": "a", "bad": "b"}\n'
# It takes the real command's options, and writes what the real one wrote where the real one writes it.
_STAND_IN = """#!{python}
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "limit", "output_path"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--apply_chat_template", action="store_true")
asked = parser.parse_args()
args = dict(pair.split("=", 1) for pair in asked.model_args.split(","))
if args["model"] == "broken":
    sys.exit("ConnectionError: nobody answers")
out = pathlib.Path(asked.output_path) / args["model"].replace("/", "__")
out.mkdir(parents=True)
if args["model"] != "silent":
    (out / "results_2026-11-22T05-21-02.838989.json").write_text(pathlib.Path({recorded!r}).read_text())
(out / "seen.json").write_text(json.dumps({{"options": vars(asked), "environment": dict(os.environ)}}))
"""


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """Return a command that behaves as lm_eval does."""
    path = tmp_path / "lm_eval"
    path.write_text(_STAND_IN.format(python=sys.executable, recorded=str(RECORDED)))
    path.chmod(0o755)
    return path


def harness(command: Path, *tasks: str) -> LmEval:
    """Return the harness over that command."""
    return LmEval(str(command), "http://127.0.0.1:11434", tasks or ("fleet_tiny",), limit=10, concurrency=3)


def test_the_sets_that_ship_are_read_by_default() -> None:
    """The settings' defaults name five sets, each with its items."""
    found = read_guards(Guards().sets, ())
    assert {name: len(items) for name, items in found.items()} == {
        "shell": 68, "knowledge": 72, "instructions": 68, "harmless": 40, "unsafe": 40,
    }  # fmt: skip


def test_an_own_set_has_the_name_of_its_file(tmp_path: Path) -> None:
    """Beside the shipped sets, or instead of them."""
    own = tmp_path / "house.jsonl"
    own.write_text(ITEM)
    assert list(read_guards(("shell",), (own,))) == ["shell", "house"]
    assert [item.id for item in read_guards((), (own,))["house"]] == ["x"]


def test_a_set_that_is_missing_or_named_twice_is_refused(tmp_path: Path) -> None:
    """The file is named, and what to do about it."""
    with pytest.raises(Misconfigured, match="cannot read the guard set"):
        read_guards((), (tmp_path / "none.jsonl",))
    (tmp_path / "shell.jsonl").write_text(ITEM)
    with pytest.raises(Misconfigured, match="two guard sets are named shell"):
        read_guards(("shell",), (tmp_path / "shell.jsonl",))
    (tmp_path / "latin.jsonl").write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="cannot read"):
        read_guards((), (tmp_path / "latin.jsonl",))


def test_the_command_is_asked_for_a_served_model(
    command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the engine's address, tasks and limit, none of our secrets, and its results are read."""
    monkeypatch.setenv("FLEETSSD_SECRET", "hush")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert harness(command).score("fleet-coder:v1", out) == (TaskScore("fleet_tiny", "exact_match", 10, 0.0, 0.0),)
    seen = json.loads(next(out.rglob("seen.json")).read_text())
    assert seen["options"]["model"] == "local-chat-completions"
    assert "model=fleet-coder:v1,base_url=http://127.0.0.1:11434/v1/chat/completions" in seen["options"]["model_args"]
    assert (seen["options"]["tasks"], seen["options"]["limit"]) == ("fleet_tiny", "10")
    assert "FLEETSSD_SECRET" not in seen["environment"]
    assert seen["environment"]["HF_HUB_OFFLINE"] == "1"


def test_what_an_earlier_run_left_is_not_read(command: Path, tmp_path: Path) -> None:
    """The folder is emptied first: a run that wrote nothing has no results."""
    out = tmp_path / "out"
    harness(command).score("good", out)
    with pytest.raises(Transient, match="ended with 0: it said nothing"):
        harness(command).score("silent", out)


def test_a_run_that_fails_says_so(command: Path, tmp_path: Path) -> None:
    """The last line that it wrote is the reason; a task that it never told of is a fault of its own."""
    with pytest.raises(Transient, match="ConnectionError: nobody answers"):
        harness(command).score("broken", tmp_path / "out")
    with pytest.raises(Corrupt, match="no metric with a standard error of gsm8k"):
        harness(command, "gsm8k").score("good", tmp_path / "out")


def test_without_the_command_nothing_is_begun(tmp_path: Path) -> None:
    """The night is refused before it costs anything, with what to install."""
    with pytest.raises(Misconfigured, match="there is no command") as refused:
        harness(tmp_path / "lm_eval")
    assert "pip install" in refused.value.hint


@pytest.mark.live
@pytest.mark.skipif("FLEETSSD_TEST_LM_EVAL" not in os.environ, reason="names a real lm_eval command")
def test_the_real_command_is_understood(tmp_path: Path) -> None:
    """A real lm_eval asks a real server (FLEETSSD_TEST_OLLAMA_URL, model FLEETSSD_TEST_MODEL) a task of our own."""
    (tmp_path / "data.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n' * 4)
    (tmp_path / "tiny.yaml").write_text(_TASK.format(data=tmp_path / "data.jsonl"))
    real = LmEval(
        os.environ["FLEETSSD_TEST_LM_EVAL"],
        os.environ["FLEETSSD_TEST_OLLAMA_URL"],
        (str(tmp_path / "tiny.yaml"),),
        limit=4,
        concurrency=2,
    )
    (found,) = real.score(os.environ["FLEETSSD_TEST_MODEL"], tmp_path / "out")
    assert (found.metric, found.items) == ("exact_match", 4)


_TASK = """task: tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_gen_toks: 8
  temperature: 0.0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
