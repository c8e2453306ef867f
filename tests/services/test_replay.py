"""A night made again over fakes: what must be the same, and which word is said where it is not."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Sample, StageRow
from fleetssd.errors import Rejected
from fleetssd.gitea import PullKey
from fleetssd.operations import learn
from fleetssd.operations.replay import Replay, replay
from fleetssd.recipe import TEMPERATURE_FIRST, Lora, NightPlan, Sampling
from fleetssd.training import Row, encode_rows
from tests.e2e.small_world import fabricated
from tests.fakes import FakeBuilder, FakeTrainer

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RECORDS = fabricated(4, 0)
DECODE = Sampling(1.0, 0, 1.0, 0.0, 8, TEMPERATURE_FIRST)


class World:
    """A store with one trained night over fakes, and the folder that its base lies in.

    Its adapter is built in the type `kind`; None: in F32 by a version that noted no type.
    """

    def __init__(self, folder: Path, arm: Any, mix: Path | None = None, kind: str | None = "F16") -> None:
        self.mix, self.kind = mix, kind
        self.store = SqlStore.open(f"sqlite:///{folder / 'store.sqlite3'}")
        self.trainer, self.builder = FakeTrainer(), FakeBuilder()
        self.folder = folder
        self.base = learn.Base(folder, folder / "base.gguf")
        (folder / "model.safetensors").write_bytes(b"weights")
        self.base.gguf.write_text("gguf")
        for record in RECORDS:
            self.store.put_pulls([(PullKey(record.instance, record.repository_id, record.pull), "t", record)], NOW)
        lora = Lora(4, 4.0, ("q_proj",), 1e-3, 4, 4, 1, 0, 64)
        ids = tuple(record.id for record in RECORDS)
        gguf = learn.file_digest(self.base.gguf)
        self.plan = NightPlan(
            1, arm, 1, ids, (), (), DECODE, lora, DECODE, "none", (0.2,), 1, 1, "auto", gguf, gguf, "m", 1.0
        )
        self.store.open_night(self.plan.to_json(), arm, NOW)
        if arm == "ssd":
            rows = (Sample(1, r.id, r.prompt, "a\nb\n", 1, "stop", "fake") for r in RECORDS)
            self.store.add_samples(rows)
        self.train()

    def train(self) -> None:
        """Close the stages `train` and `build`."""
        night = self.folder / "night"
        wanted = learn.Wanted(mix=self.mix, mix_ratio=0.5)
        result = learn.train(self.plan, self.store, self.trainer, self.base, night, wanted, lambda *_: None)
        self.store.finish_stage(StageRow(1, "train", result, NOW, NOW))
        kind = self.kind or "F32"
        built = learn.build(self.plan, self.builder, self.base, night, 1.0, "adapter-registry", kind)
        noted = {key: value for key, value in built.items() if key != "adapter_type" or self.kind}
        self.store.finish_stage(StageRow(1, "build", noted, NOW, NOW))

    def replay(self) -> Replay:
        """Replay the night in a new folder."""
        folder = self.folder / "again"
        folder.mkdir()
        return replay(
            1, store=self.store, trainer=self.trainer, builder=self.builder, base=self.base, mix=self.mix,
            folder=folder, progress=lambda *_: None,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["F16", "F32", None])
def test_a_file_is_built_again_in_the_type_of_its_night(tmp_path: Path, kind: str | None) -> None:
    """The type is read from the night, not from today's settings; a night that noted none was built in F32."""
    world = World(tmp_path, "merged", kind=kind)
    assert world.replay().same
    assert [what for what, _ in world.builder.built] == [f"adapter {kind or 'F32'}"] * 2


@pytest.mark.parametrize("arm", ["ssd", "merged"])
def test_an_untouched_night_is_the_same(tmp_path: Path, arm: str) -> None:
    """Same rows, same plan, same adapter, same file: the trainer gets the plan that is on file."""
    world = World(tmp_path, arm)
    made = world.replay()
    assert made.same, made
    assert made.expected == made.found
    assert asdict(world.trainer.plans[0]) == asdict(world.trainer.plans[1])


def test_a_night_with_open_data_needs_that_very_file(tmp_path: Path) -> None:
    """Mixed rows are drawn again from the same file; where it changed, or is not named any more, that is said."""
    mix = tmp_path / "mix.jsonl"
    mix.write_bytes(encode_rows([Row(f"q{n}", f"a{n}") for n in range(9)]))
    world = World(tmp_path, "merged", mix)
    assert world.replay().same
    for changed in (mix.read_bytes() + encode_rows([Row("q", "a")]), None):
        shutil.rmtree(tmp_path / "again")
        if changed is None:
            world.mix = None
        else:
            mix.write_bytes(changed)
        with pytest.raises(Rejected, match=r"recipe\.mix does not name"):
            world.replay()


def test_a_changed_record_differs_before_anything_is_trained(tmp_path: Path) -> None:
    """A merged solution that is not what it was makes other rows: said at once, with both digests."""
    world = World(tmp_path, "merged")
    world.store.replace_record(replace(RECORDS[1], solution="other\n"), NOW)
    made = world.replay()
    assert (made.same, made.differs) == (False, "rows")
    assert made.expected != made.found
    assert len(world.trainer.plans) == 1


def test_a_changed_prompt_differs_by_the_name_of_its_record(tmp_path: Path) -> None:
    """Where a record no longer asks what was sampled, that record is named."""
    world = World(tmp_path, "ssd")
    world.store.replace_record(replace(RECORDS[2], prompt="other"), NOW)
    made = world.replay()
    assert made.differs == "records"
    assert RECORDS[2].id[:12] in made.reason


def test_another_base_differs(tmp_path: Path) -> None:
    """Weights that were not trained on are said, not trained on."""
    world = World(tmp_path, "merged")
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert world.replay().differs == "base"
    assert len(world.trainer.plans) == 1


def test_another_adapter_differs_and_says_which_packages_changed(tmp_path: Path) -> None:
    """A trainer of another version that makes other weights is named with both versions."""
    world = World(tmp_path, "merged")
    train = world.trainer.train

    def newer(*arguments: Any) -> Any:
        return replace(train(*arguments), adapter_digest="other", versions={"torch": "9"})

    world.trainer.train = newer  # type: ignore[method-assign]
    made = world.replay()
    assert (made.differs, made.found) == ("adapter", "other")
    assert "torch None > 9" in made.reason


def test_a_night_that_never_trained_cannot_be_replayed(tmp_path: Path) -> None:
    """There is nothing to compare with: Rejected, with a hint."""
    store = SqlStore.open(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    with pytest.raises(Rejected, match="no night 1") as caught:
        replay(
            1, store=store, trainer=FakeTrainer(), builder=FakeBuilder(), base=learn.Base(tmp_path, tmp_path),
            mix=None, folder=tmp_path, progress=lambda *_: None,
        )  # fmt: skip
    assert caught.value.hint
