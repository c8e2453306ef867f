"""The install stage over an engine in memory: which road, which proofs, which refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.checkpoints import Checkpoint
from fleetssd.errors import Corrupt, Misconfigured, Rejected, Transient
from fleetssd.fidelity import Said, Witness
from fleetssd.operations.install import Installed, install
from fleetssd.ports import Completion, Prompt
from fleetssd.recipe import Lora, NightPlan, Sampling
from tests.fakes import FakeEngine, Killed

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
BASE = "fleet-base:latest"
ADAPTER, MERGED, BAKED = "a" * 64, "b" * 64, "c" * 64
NAME = f"fleet-coder:v20261122-{'a' * 12}"
DECODE = Sampling(1.0, 40, 1.0, 0.0, 64)
PLAN = NightPlan(
    3, "ssd", 1, (), (), (), DECODE, Lora(4, 8.0, (), 1e-3, 4, 1, 1, 0, 64), DECODE, "none", (0.2,), 4, 4, "auto", "0",
    "0", BASE, 1.0,
)  # fmt: skip


@pytest.fixture
def engine() -> FakeEngine:
    """Return an engine with a base that answers otherwise than everything else."""
    engine = FakeEngine()
    engine.models[BASE] = ("served-base", "blob-base", None)
    engine.answer = lambda model, prompt: Completion(f"{prompt.text} by {model == BASE}", "stop", 3)
    return engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of artefacts; the fake engine takes a file's text for its digest."""
    for name, digest in (("adapter", ADAPTER), ("merged", MERGED), ("baked", BAKED)):
        (tmp_path / f"{name}.gguf").write_text(digest)
    return tmp_path


def run(engine: FakeEngine, folder: Path, files: dict[str, str], **more: Any) -> Checkpoint:
    """Install and return the checkpoint."""
    return tried(engine, folder, files, **more).checkpoint


def tried(engine: FakeEngine, folder: Path, files: dict[str, str], **more: Any) -> Installed:
    """Install with what all tests share."""
    told: dict[str, Any] = {"road": "adapter-registry", "tau": 1.0, "prompts": ["one", "two"], "witnesses": ()}
    told |= {"now": NOW} | more
    return install(engine, plan=PLAN, base_model=BASE, alias="fleet-coder:latest", folder=folder, files=files, **told)


def test_an_adapter_sits_beside_the_base(engine: FakeEngine, folder: Path) -> None:
    """The name carries the adapter's digest; the file under it is the base's own."""
    made = run(engine, folder, {"adapter": ADAPTER})
    assert (made.digest, made.kind, made.model, made.road, made.night) == (
        ADAPTER, "adapter", NAME, "adapter-registry", 3,
    )  # fmt: skip
    assert engine.models[NAME] == (made.served_digest, "blob-base", ADAPTER)
    assert made.bytes == 64


def test_a_baked_base_is_what_the_adapter_sits_on(engine: FakeEngine, folder: Path) -> None:
    """Where the temperature is baked in, the copy of the base with it is uploaded and used."""
    made = run(engine, folder, {"adapter": ADAPTER, "baked": BAKED}, tau=0.2)
    assert (engine.blob_of(made.model), made.tau) == (BAKED, 0.2)


def test_a_merged_file_is_created_and_has_no_adapter(engine: FakeEngine, folder: Path) -> None:
    """By the other road the merged file's digest is the artefact's."""
    made = run(engine, folder, {"adapter": ADAPTER, "merged": MERGED}, road="merged-create")
    assert (made.digest, made.kind, engine.adapter_of(made.model)) == (MERGED, "merged", None)


def test_a_file_that_changed_since_the_build_is_corrupt(engine: FakeEngine, folder: Path) -> None:
    """What is uploaded must be what was built."""
    (folder / "adapter.gguf").write_text("d" * 64)
    with pytest.raises(Corrupt, match="not the file that was built"):
        run(engine, folder, {"adapter": ADAPTER})


def test_the_bases_own_answers_are_refused(engine: FakeEngine, folder: Path) -> None:
    """An adapter without effect is no candidate, and its name is removed."""
    engine.answer = lambda _model, prompt: Completion(prompt.text, "stop", 1)
    with pytest.raises(Rejected, match="no effect"):
        run(engine, folder, {"adapter": ADAPTER})
    assert NAME not in engine.models


def test_silence_is_refused(engine: FakeEngine, folder: Path) -> None:
    """A candidate that answers nothing is refused."""
    engine.answer = lambda model, _prompt: Completion("x" if model == BASE else " ", "stop", 1)
    with pytest.raises(Rejected, match="answers nothing"):
        run(engine, folder, {"adapter": ADAPTER})


def test_never_stopping_is_refused(engine: FakeEngine, folder: Path) -> None:
    """The base stops, the candidate runs into the limit every time: its end token is lost."""
    engine.answer = lambda model, _prompt: Completion(model, "stop" if model == BASE else "length", 1)
    with pytest.raises(Rejected, match="never stops"):
        run(engine, folder, {"adapter": ADAPTER})


def test_another_chat_template_is_refused(engine: FakeEngine, folder: Path) -> None:
    """Base and candidate must see the same prompt."""
    engine.templates[NAME] = "<{}>"
    with pytest.raises(Rejected, match="template"):
        run(engine, folder, {"adapter": ADAPTER})


def test_a_failing_engine_is_tried_again(engine: FakeEngine, folder: Path) -> None:
    """An answer that is an error says nothing about the candidate, so the stage is put off and the name stays."""
    engine.answer = lambda _model, _prompt: Completion("", "error", 0)
    with pytest.raises(Transient):
        run(engine, folder, {"adapter": ADAPTER})
    assert NAME in engine.models


def test_without_issues_it_asks_questions_of_its_own(engine: FakeEngine, folder: Path) -> None:
    """A night without a tune slice is still smoke-tested."""
    asked: list[str] = []

    def answer(model: str, prompt: Prompt) -> Completion:
        asked.append(prompt.text)
        return Completion(model, "stop", 1)

    engine.answer = answer
    run(engine, folder, {"adapter": ADAPTER}, prompts=[])
    assert asked


def test_the_base_is_asked_before_the_candidate_is_loaded(engine: FakeEngine, folder: Path) -> None:
    """Each alternation on one file is a reload for the whole fleet: there is one."""
    run(engine, folder, {"adapter": ADAPTER})
    assert engine.calls == [f"pull {NAME}", f"complete {BASE}", f"preload {NAME}", f"complete {NAME}"]


def test_a_disk_without_room_is_told_before_anything_is_sent(engine: FakeEngine, folder: Path) -> None:
    """A merged file by create may be written twice; the same room takes it by registry."""
    engine.free = 100
    files = {"adapter": ADAPTER, "merged": MERGED}
    with pytest.raises(Misconfigured, match="MiB free"):
        run(engine, folder, files, road="merged-create")
    assert engine.blobs == set()
    assert run(engine, folder, files, road="merged-registry").road == "merged-registry"


def test_what_the_engine_has_takes_no_room(engine: FakeEngine, folder: Path) -> None:
    """A baked base that an earlier night sent is not counted again: a night then costs its adapter."""
    files = {"adapter": ADAPTER, "baked": BAKED}
    engine.free = 100
    with pytest.raises(Misconfigured, match="MiB free"):
        run(engine, folder, files, tau=0.2)
    engine.blobs.add(BAKED)
    assert run(engine, folder, files, tau=0.2).digest == ADAPTER


def test_a_kill_after_the_engine_has_it_sends_nothing_again(engine: FakeEngine, folder: Path) -> None:
    """The next start reads its journal, sees the name in the engine and goes on with the smoke test, past midnight too.

    A name that is gone, or means something else by now, is installed again.
    """

    def kill(call: str) -> None:
        if call.startswith("preload"):
            raise Killed

    engine.before = kill
    with pytest.raises(Killed):
        run(engine, folder, {"adapter": ADAPTER})
    engine.before = lambda _: None
    for changes, sent in ((0, []), (1, [f"pull {NAME}"])):
        if changes:
            engine.models[NAME] = ("another", "blob-base", ADAPTER)
        engine.calls.clear()
        made = run(engine, folder, {"adapter": ADAPTER}, now=NOW + timedelta(hours=23))
        assert (made.model, made.served_digest) == (NAME, engine.models[NAME][0])
        assert [call for call in engine.calls if call.startswith("pull")] == sent


def test_a_kill_before_the_engine_has_it_installs_under_the_same_name(engine: FakeEngine, folder: Path) -> None:
    """The name is noted before anything is sent, so that the night before leaves none behind."""

    def kill(call: str) -> None:
        if call.startswith("pull"):
            raise Killed

    engine.before = kill
    with pytest.raises(Killed):
        run(engine, folder, {"adapter": ADAPTER})
    engine.before = lambda _: None
    assert run(engine, folder, {"adapter": ADAPTER}, now=NOW + timedelta(hours=23)).model == NAME


def test_a_journal_of_something_else_is_not_believed(engine: FakeEngine, folder: Path) -> None:
    """Another artefact, another alias, or a file that is no journal: installed as if nothing were noted."""
    run(engine, folder, {"adapter": ADAPTER})
    journal = folder / "install.json"
    noted = json.loads(journal.read_text())
    for text in (json.dumps(noted | {"digest": MERGED}), json.dumps(noted | {"alias": "other"}), "{", "[]", '{"a": 1}'):
        journal.write_text(text)
        engine.calls.clear()
        assert run(engine, folder, {"adapter": ADAPTER}).model == NAME
        assert f"pull {NAME}" in engine.calls
        assert json.loads(journal.read_text()) == noted


TOKENS = "abcdefghij"
FLAT = {token: -2.0 - number / 10 for number, token in enumerate(TOKENS)}
STEEP = {token: -0.5 - number for number, token in enumerate(TOKENS)}
WITNESS = Witness("Say a.", Said(FLAT, "abc"), Said(STEEP, "aaa"))


def test_the_trainers_own_model_is_what_must_answer(engine: FakeEngine, folder: Path) -> None:
    """An engine that changes the base as was trained passes; one that changes it half as much is refused by name."""
    engine.first = {BASE: FLAT, NAME: STEEP}
    run(engine, folder, {"adapter": ADAPTER}, witnesses=[WITNESS])
    engine.first[NAME] = {token: (FLAT[token] + STEEP[token]) / 2 for token in TOKENS}
    with pytest.raises(Rejected, match=r"0\.50 times as much as was trained"):
        run(engine, folder, {"adapter": ADAPTER}, witnesses=[WITNESS])
    assert NAME not in engine.models


def test_an_engine_without_log_probabilities_is_held_to_the_answers(engine: FakeEngine, folder: Path) -> None:
    """Greedy answers stand in: the trainer's own pass, others are refused."""
    says = {BASE: "abc", NAME: "aaa"}
    engine.answer = lambda model, _prompt: Completion(says[model], "stop", 3)
    run(engine, folder, {"adapter": ADAPTER}, witnesses=[WITNESS])
    says[NAME] = "xyz"
    with pytest.raises(Rejected, match="answers otherwise than what was trained"):
        run(engine, folder, {"adapter": ADAPTER}, witnesses=[WITNESS])


def test_the_prompt_that_was_trained_is_held_against_the_engines(engine: FakeEngine, folder: Path) -> None:
    """An engine that puts a prompt to its models as the trainer did is told from one with a template of its own."""
    engine.first = {BASE: FLAT, NAME: STEEP}
    for rendered, prompted in (("", None), ("Say a.", True), ("[user] Say a.", False)):
        found = tried(engine, folder, {"adapter": ADAPTER}, witnesses=[replace(WITNESS, rendered=rendered)])
        assert found.fidelity is not None
        assert found.fidelity.prompted is prompted


def test_an_adapter_may_leave_greedy_answers_alone(engine: FakeEngine, folder: Path) -> None:
    """Equal texts are no proof of no effect where the likelihoods moved as they should."""
    engine.first = {BASE: FLAT, NAME: STEEP}
    engine.answer = lambda _model, prompt: Completion(prompt.text, "stop", 1)
    assert run(engine, folder, {"adapter": ADAPTER}, witnesses=[WITNESS]).model == NAME


@pytest.mark.parametrize("trait", ["license", "parameters", "parser", "renderer", "system", "template"])
def test_what_the_base_carries_the_candidate_carries(engine: FakeEngine, folder: Path, trait: str) -> None:
    """A name that lost one of them on its road is refused, and the one that is lost is named."""
    engine.traits = {BASE: {trait: "the base's"}, NAME: {}}
    with pytest.raises(Rejected, match=f"has another {trait} than"):
        run(engine, folder, {"adapter": ADAPTER})
