"""The trainer killed, stopped and out of room, at every moment at which it leaves something on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetssd import safetensors
from fleetssd.adapters.backends.durable import SAVE_STEPS
from fleetssd.adapters.backends.preflight import preflight
from fleetssd.adapters.trainer_process import adapter_stats
from fleetssd.adapters.trainer_process.child import bubblewrap_works, confined, environment
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.recipe import Lora
from fleetssd.training import TrainResult, acceptable, encode_rows, steps
from tests.e2e import tiny

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # two dozen starts in one test, on whatever cores are left

LORA = dataclasses.replace(tiny.LORA, rank=2, alpha=4.0, batch=2, epochs=9, learning_rate=2e-3)
TOTAL = steps(len(tiny.ROWS), LORA)
LAST = f"checkpoint-{TOTAL}"
EARLY = (
    "open ./lock",
    "backward 1",
    "step 3",
    "backward 2",
    f"os.mkdir checkpoints/checkpoint-{SAVE_STEPS}",
    f"open checkpoints/checkpoint-{SAVE_STEPS}/trainer_state.json",
    f"open checkpoints/checkpoint-{SAVE_STEPS}/whole",
    f"step {SAVE_STEPS + 2}",
)
LATE = (
    f"os.mkdir checkpoints/{LAST}",
    f"open checkpoints/{LAST}/whole",
    "os.mkdir adapter.tmp",
    "open adapter.tmp/adapter_config.json",
    "os.rename adapter.tmp",
    "open .result.json.partial",
    "os.rename .result.json.partial",
)
"""What the trainer does last, in its order; paths are those that its folder knows."""


class Trainers:
    """A process that has loaded the training stack and forks a trainer for each start."""

    def __init__(self, base: Path, scratch: Path) -> None:
        self.base = base
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.trouble_child"],
            env=environment(scratch, 1),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, folder: Path, moment: str = "", trouble: str = "", file_bytes: int = 0, base: Path | None = None
    ) -> int:
        """Train once in this folder and return the exit code, negative for a signal."""
        place, _, path = moment.partition(" ")
        words = f"{place} {folder / path}" if "/" in path or "." in path else moment
        job = {"folder": str(folder), "base": str(base or self.base), "trouble": trouble, "file_bytes": file_bytes}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**job, "moment": words}) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline())["code"])


@pytest.fixture(scope="module")
def trainers(tiny_model: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    """Load the training stack once for all starts of this file."""
    trainers = Trainers(tiny_model.hf, tmp_path_factory.mktemp("scratch"))
    yield trainers
    assert trainers.process.stdin is not None
    assert trainers.process.stdout is not None
    trainers.process.stdin.close()
    trainers.process.wait()
    trainers.process.stdout.close()


def lay_out(folder: Path, base: Path, lora: Lora = LORA) -> Path:
    """Write a run's folder as the parent does."""
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(encode_rows(tiny.ROWS))
    (folder / "plan.json").write_text(json.dumps(tiny.plan_for(base, lora=lora).to_json()))
    return folder


@pytest.fixture(scope="module")
def unbroken(trainers: Trainers, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Train once without trouble."""
    folder = lay_out(tmp_path_factory.mktemp("unbroken") / "run", trainers.base)
    assert trainers.start(folder) == 0, (folder / "err").read_text()[-2000:]
    return whole(folder, trainers.base)


def whole(folder: Path, base: Path, lora: Lora = LORA) -> TrainResult:
    """Read a finished run as the parent does: it raises where anything is not as it claims."""
    result = TrainResult.from_json(json.loads((folder / "result.json").read_text()))
    acceptable(tiny.plan_for(base, lora=lora), result, adapter_stats(folder / "adapter"))
    return result


def last_event(folder: Path) -> dict[str, Any]:
    """Return the last thing that the trainer said."""
    return dict(json.loads((folder / "out").read_text().splitlines()[-1]))


def test_a_run_killed_at_every_moment_ends_as_if_unbroken(
    trainers: Trainers, unbroken: TrainResult, tmp_path: Path
) -> None:
    """Kill -9 at each moment in turn, in one folder: never a result before the end, and at the end the same bytes."""
    folder = lay_out(tmp_path / "run", trainers.base)
    for moment in (*EARLY, *LATE):
        assert trainers.start(folder, moment, "SIGKILL") == -signal.SIGKILL, moment
        assert not (folder / "result.json").exists(), moment
    assert trainers.start(folder) == 0, (folder / "err").read_text()[-2000:]
    result = whole(folder, trainers.base)
    assert (result.adapter_digest, result.losses) == (unbroken.adapter_digest, unbroken.losses)
    assert not (folder / "adapter.tmp").exists()


def test_a_run_stopped_at_every_moment_ends_as_if_unbroken(
    trainers: Trainers, unbroken: TrainResult, tmp_path: Path
) -> None:
    """SIGTERM before the last step ends with 75 and a checkpoint; after it the run ends, which is quicker."""
    folder = lay_out(tmp_path / "run", trainers.base)
    for number, moment in enumerate((*EARLY, *LATE)):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(folder, copy)
        early = moment in EARLY
        assert trainers.start(copy, moment, "SIGTERM") == (75 if early else 0), moment
        assert (copy / "result.json").exists() is not early, moment
        if early:
            assert list(copy.glob("checkpoints/*/whole")), moment
        else:
            assert whole(copy, trainers.base).adapter_digest == unbroken.adapter_digest, moment
        if moment in (EARLY[0], EARLY[-1]):  # go on from there
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)


def test_a_run_stopped_again_and_again_ends_as_if_unbroken(
    trainers: Trainers, unbroken: TrainResult, tmp_path: Path
) -> None:
    """SIGTERM at ever later steps of one run, around an epoch's and a checkpoint's border, loses and repeats no step.

    A stop takes effect at the end of the step after the one that is told.
    """
    folder = lay_out(tmp_path / "run", trainers.base)
    steps_an_epoch = TOTAL // LORA.epochs
    for step in (1, 3, steps_an_epoch, steps_an_epoch + 2, SAVE_STEPS - 2, SAVE_STEPS, SAVE_STEPS + 2):
        assert trainers.start(folder, f"step {step}", "SIGTERM") == 75, step
        assert not (folder / "result.json").exists(), step
    assert trainers.start(folder) == 0
    result = whole(folder, trainers.base)
    assert (result.adapter_digest, result.losses) == (unbroken.adapter_digest, unbroken.losses)
    said = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert [event["step"] for event in said if event["event"] == "step"] == list(range(1, TOTAL + 1))


def test_a_file_that_may_not_grow_publishes_nothing(trainers: Trainers, unbroken: TrainResult, tmp_path: Path) -> None:
    """Where a checkpoint's file hits a size limit, the run ends with 78 and a hint, and goes on once there is room."""
    folder = lay_out(tmp_path / "run", trainers.base)
    assert trainers.start(folder, file_bytes=20_000) == 78
    assert "disk is full" in last_event(folder)["message"]
    assert "Make room" in last_event(folder)["hint"]
    assert not (folder / "adapter").exists()
    assert not list(folder.glob("checkpoints/*/whole"))
    assert trainers.start(folder) == 0
    assert whole(folder, trainers.base).adapter_digest == unbroken.adapter_digest


@pytest.mark.skipif(not bubblewrap_works(), reason="bubblewrap cannot start here")
@pytest.mark.parametrize(
    "moment",
    [
        f"os.mkdir checkpoints/checkpoint-{SAVE_STEPS}",
        "os.mkdir adapter.tmp",
        "open adapter.tmp/adapter_config.json",
        "open .result.json.partial",
    ],
    ids=["checkpoint", "adapter", "config", "result"],
)
def test_a_disk_that_fills_up_publishes_nothing(trainers: Trainers, moment: str, tmp_path: Path) -> None:
    """On a real, small, full file system a save ends with 78 and leaves neither adapter nor result."""
    source = lay_out(tmp_path / "source", trainers.base)
    disk = tmp_path / "disk"
    disk.mkdir()
    walled = confined(Path(sys.executable), trainers.base, source)[:-1]
    tests = Path(__file__).resolve().parents[1]
    job = {"folder": str(disk), "base": str(trainers.base), "trouble": "full"}
    place, _, path = moment.partition(" ")
    line = json.dumps({**job, "moment": f"{place} {disk / path}"})
    script = 'cp plan.json rows.jsonl "$1"; "$2" -m tests.e2e.trouble_child; cd "$1"; ls; tail -n 1 out'
    done = subprocess.run(
        [
            *(*walled, "--ro-bind", str(tests), str(tests), "--size", str(4_000_000), "--tmpfs", str(disk), "--"),
            *("sh", "-c", script, "sh", str(disk), sys.executable),
        ],
        env=environment(source, 1),
        input=line + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert '{"code": 78}' in done.stdout, done.stdout + done.stderr[-2000:]
    left = done.stdout.splitlines()
    assert ("adapter" in left) is (moment == "open .result.json.partial")  # whole, and nobody's without a result
    assert "result.json" not in left
    assert "disk is full" in left[-1]


def test_a_loss_that_vanishes_ends_the_run_at_once(trainers: Trainers, tmp_path: Path) -> None:
    """Copies of one row are learned by heart: the run fails where that shows, and publishes nothing."""
    lora = dataclasses.replace(LORA, rank=8, alpha=16.0, epochs=40, learning_rate=1e-2)
    base = louder(trainers.base, tmp_path / "base")
    rows = tiny.ROWS[:1] * 4
    folder = lay_out(tmp_path / "run", base)
    (folder / "rows.jsonl").write_bytes(encode_rows(rows))
    (folder / "plan.json").write_text(json.dumps(tiny.plan_for(base, rows, lora).to_json()))
    assert trainers.start(folder, base=base) == 1
    said = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert said[-1]["kind"] == "Rejected"
    assert "by heart" in said[-1]["message"]
    assert max(event["step"] for event in said if event["event"] == "step") < 0.8 * steps(len(rows), lora)
    assert not (folder / "adapter").exists()
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize(
    ("moment", "norm", "words"),
    [
        (f"step {TOTAL - 10}", 1.0, "exploded"),
        ("", math.inf, "NaN or infinite at step 1"),
        ("", math.nan, "NaN or infinite at step 1"),
    ],
    ids=["exploding", "inf", "nan"],
)
def test_a_loss_that_goes_wrong_publishes_nothing(
    trainers: Trainers, moment: str, norm: float, words: str, tmp_path: Path
) -> None:
    """A loss that explodes, or is no number, fails the run with its reason, before there is an adapter."""
    base = louder(trainers.base, tmp_path / "base", norm)
    folder = lay_out(tmp_path / "run", base)
    assert trainers.start(folder, moment, "explode", base=base) == 1
    assert last_event(folder)["kind"] == "Rejected"
    assert words in last_event(folder)["message"]
    assert "recipe.learning_rate" in last_event(folder)["hint"]
    assert not (folder / "adapter").exists()
    assert not (folder / "result.json").exists()


def test_a_run_that_learned_nothing_is_refused(trainers: Trainers, tmp_path: Path) -> None:
    """At a learning rate of nothing every B stays zero: the run ends, and is not taken for one that learned."""
    lora = dataclasses.replace(LORA, learning_rate=0.0, epochs=2)
    folder = lay_out(tmp_path / "run", trainers.base, lora)
    assert trainers.start(folder) == 0
    with pytest.raises(Rejected, match="all zeros"):
        whole(folder, trainers.base, lora)


def louder(base: Path, copy: Path, times: float = 4.0) -> Path:
    """Copy the tiny base with larger logits: as it is, they are too small for a loss of nothing."""
    shutil.copytree(base, copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    span = safetensors.parse(bytes(data), len(data))["model.norm.weight"]
    norm = np.frombuffer(data, "<f4", span.values, span.offset) * np.float32(times)
    data[span.offset : span.offset + norm.nbytes] = norm.tobytes()
    weights.write_bytes(data)
    return copy


def test_a_disk_that_is_too_small_is_refused_before_the_base_is_loaded(trainers: Trainers, tmp_path: Path) -> None:
    """A run whose checkpoints cannot fit ends with 78, what it needs and what there is, before its first step."""
    folder = lay_out(tmp_path / "run", trainers.base, dataclasses.replace(LORA, rank=10**9))
    assert trainers.start(folder) == 78
    (said,) = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert "MB of disk" in said["message"]
    assert "recipe.rank" in said["hint"]
    assert not (folder / "checkpoints").exists()


def test_too_little_memory_is_refused(trainers: Trainers, tmp_path: Path) -> None:
    """A row whose logits alone are larger than the machine is refused with what can be done."""
    with pytest.raises(Misconfigured, match="MB of memory") as caught:
        preflight(tiny.plan_for(trainers.base, lora=LORA), trainers.base, tmp_path, 10**12)
    assert "recipe.max_length" in caught.value.hint
