"""What a night trains on and where: open data mixed in, a placement chosen once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.gitea import PullKey
from fleetssd.operations import learn
from fleetssd.operations.learn import Base, Wanted
from fleetssd.placement import Choice, Placement
from fleetssd.recipe import Lora, NightPlan, Sampling
from fleetssd.training import Row, TrainPlan, encode_rows
from tests.fakes import FakeTrainer, MemoryStore
from tests.services.test_night import START, record

DECODE = Sampling(1.0, 20, 0.8, 0.0, 64)
LORA = Lora(4, 8.0, ("q_proj",), 1e-3, 4, 1, 1, 0, 64)
RECORDS = 8
PLAN = NightPlan(
    1, "merged", 1, tuple(f"r{n:03d}" for n in range(RECORDS)), (), (), DECODE, LORA, DECODE, "none", (0.2,), 2, 2,
    "auto", "b", "b", "m", 1.0,
)  # fmt: skip
MIX = tuple(Row(f"question {n}", f"answer {n}\n") for n in range(20))


@dataclass
class Choosy(FakeTrainer):
    """Says that it has a GPU, as long as there is one, and keeps what it was asked for."""

    device: str = "cuda"
    asked: list[tuple[str, str, bool]] = field(default_factory=list)

    def place(self, backend: str, device: str, *, qlora: bool) -> Choice:
        """Choose what is there now."""
        self.asked.append((backend, device, qlora))
        return Choice(Placement("trl", self.device), f"trl on {self.device}")


@dataclass
class Stage:
    """One night's stage `train`, run again and again."""

    folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    trainer: Choosy = field(default_factory=Choosy)
    said: list[str] = field(default_factory=list)

    def run(self, wanted: Wanted) -> dict[str, Any]:
        """Train and return what the stage leaves on file."""
        base = Base(self.folder / "hf", self.folder / "base.gguf")
        return learn.train(
            PLAN,
            self.store,
            self.trainer,
            base,
            self.folder / "0001",
            wanted,
            lambda _a, _b, what: self.said.append(what),
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Return a night with eight records and a file of open data."""
    return staged(tmp_path)


def staged(folder: Path) -> Stage:
    """Lay a night out in this folder."""
    stage = Stage(folder)
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "model.safetensors").write_bytes(b"weights")
    (folder / "mix.jsonl").write_bytes(encode_rows(MIX))
    for number in range(RECORDS):
        stage.store.put_pulls([(PullKey("http://forge", 1, number), "t", record(number, "train"))], START)
    return stage


def test_open_data_is_mixed_in_and_named(stage: Stage) -> None:
    """At ratio 0.5 four rows of the file follow the eight of the fleet; digest, ratio and count are on file."""
    path = stage.folder / "mix.jsonl"
    result = stage.run(Wanted(mix=path, mix_ratio=0.5))
    assert [row.completion for row in stage.trainer.rows[:RECORDS]] == [f"right {n}\n" for n in range(RECORDS)]
    assert set(stage.trainer.rows[RECORDS:]) < set(MIX)
    assert len(stage.trainer.rows) == RECORDS + 4
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert result["mix"] == {"digest": digest, "ratio": 0.5, "rows": 4}
    assert stage.run(Wanted())["mix"] is None


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text("abcdefgh", min_size=12, max_size=20), min_size=1, max_size=3),
    mixed=st.booleans(),
    threads=st.integers(1, 9),
)
def test_a_plan_knows_no_place(tmp_path: Path, names: list[str], mixed: bool, threads: int) -> None:
    """Wherever a night lies, its plan is the same JSON and no text in it is a path: another machine can run it."""

    def planned(folder: Path) -> dict[str, Any]:
        stage = staged(folder)
        stage.run(Wanted(mix=stage.folder / "mix.jsonl" if mixed else None, threads=threads))
        return stage.trainer.plans[0].to_json()

    with TemporaryDirectory(dir=tmp_path) as one, TemporaryDirectory(dir=tmp_path) as other:
        plan = planned(Path(one).joinpath(*names))
        assert plan == planned(Path(other))
    assert TrainPlan.from_json(json.loads(json.dumps(plan))).to_json() == plan
    told = list(texts(plan))
    assert told
    assert not [text for text in told if "/" in text or "\\" in text or any(name in text for name in names)]


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)


def test_open_data_that_is_missing_or_torn_stops_the_night(stage: Stage) -> None:
    """A setting that names no file, and a file that is no JSON Lines, are said before anything trains."""
    with pytest.raises(Misconfigured, match="no file"):
        stage.run(Wanted(mix=stage.folder / "none.jsonl"))
    (stage.folder / "mix.jsonl").write_text('{"prompt": "p"}\n')
    with pytest.raises(Corrupt, match="line 1"):
        stage.run(Wanted(mix=stage.folder / "mix.jsonl"))
    assert stage.trainer.plans == []


def test_a_placement_is_said_planned_and_on_file(stage: Stage) -> None:
    """What was chosen stands in the plan, in the stage's row with its reason, and in the progress."""
    result = stage.run(Wanted())
    assert stage.trainer.plans[0].placement == Placement("trl", "cuda")
    assert result["placement"]["device"] == "cuda"
    assert result["because"] == "trl on cuda"
    assert "trl on cuda" in stage.said


def test_a_night_that_goes_on_keeps_its_device(stage: Stage) -> None:
    """A restart on a machine whose GPU is gone plans the GPU again: it is for the trainer to fail, not to fall back."""
    stage.run(Wanted())
    stage.trainer.device = "cpu"
    stage.run(Wanted())
    assert [plan.placement.device for plan in stage.trainer.plans] == ["cuda", "cuda"]
    assert stage.trainer.asked == [("auto", "auto", False)]


def test_a_person_may_change_the_device(stage: Stage) -> None:
    """Other settings choose anew."""
    stage.run(Wanted())
    stage.trainer.device = "cpu"
    stage.run(Wanted(device="cpu"))
    assert [plan.placement.device for plan in stage.trainer.plans] == ["cuda", "cpu"]


def test_a_torn_placement_is_corrupt(stage: Stage) -> None:
    """What is not ours is not guessed at."""
    stage.run(Wanted())
    (stage.folder / "0001" / "placement.json").write_text("{")
    with pytest.raises(Corrupt, match="placement"):
        stage.run(Wanted())
