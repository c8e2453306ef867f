"""The paper's comparison on the demo's tiny model: what each arm gains over the base, and over the tuned base.

Every seed is a fleet of its own (other issues, other samples, another training order) on the same base. Only issues
that no arm was trained or tuned on are judged. Every measurement is a file that is written whole, so that a run that
was interrupted goes on where it stood.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from fleetssd import files
from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.adapters.samplers.llama_server import LlamaServerSampler
from fleetssd.adapters.sandboxes import BubblewrapSandbox
from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.budget import holm
from fleetssd.demo import processes
from fleetssd.errors import Rejected
from fleetssd.operations.evaluate import grade
from fleetssd.operations.learn import file_digest, folder_digest, seed_of
from fleetssd.ports import Completion, Limits, Progress, Prompt, Sandbox
from fleetssd.problems import Problem
from fleetssd.recipe import TEMPERATURE_FIRST, Lora, Sampling
from fleetssd.scoring import Estimate, Scores, deltas, difference, estimate, sign_flip
from fleetssd.toy import corpus
from fleetssd.toy.base import BaseSettings, read_base
from fleetssd.toy.work import WorkItem, some_work
from fleetssd.training import Row, TrainPlan, encode_rows

Arm: TypeAlias = Literal["ssd", "verified", "merged", "control"]
ARMS: tuple[Arm, ...] = get_args(Arm)
"""What is trained on: raw samples, those that pass, the merged solutions, samples at T = 1 without truncation."""

CONTEXT = 320
PLAIN = Sampling(1.0, 0, 1.0, 0.0, 96, TEMPERATURE_FIRST)
"""The model's own distribution: what is served where nobody tunes."""
T_TRAIN = Sampling(0.5, 10, 0.95, 0.0, 96, TEMPERATURE_FIRST)
_ALPHA = 0.05
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is spent a seed: issues to judge, records to train on, issues to tune on, samples an issue, epochs.

    `epochs` are those of an arm that keeps all its records; one with fewer rows gets more, for as many steps.
    """

    issues: int = 120
    records: int = 300
    tune: int = 40
    samples: int = 8
    epochs: int = 5
    grid: tuple[float, ...] = (0.2, 0.4, 0.7)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table, over all seeds; the differences are None for the base against itself.

    `temperature` is 0 where each seed has the one that its tuning chose. `p` is the sign-flip p-value against the tuned
    base, adjusted by Holm for all trained arms at both decodes. `note` says why an arm is missing.
    """

    arm: str
    temperature: float
    pass_1: Estimate | None
    pass_k: Estimate | None
    over_base: Estimate | None
    over_tuned: Estimate | None
    by_seed: tuple[float, ...] = ()
    p: float | None = None
    note: str = ""


def ready_base(folder: Path, progress: Progress) -> Path:
    """Return the demo's base in `folder/base`, trained there once by the trainer process."""
    wanted, base = BaseSettings(), folder / "base"
    pairs = corpus.pretraining(wanted.seed, wanted.pairs, noise=wanted.noise)
    if read_base(base, wanted, corpus.digest(pairs)) is None:

        def step(event: dict[str, Any]) -> None:
            if event.get("event") == "step":
                progress(event["step"], event["steps"], "building the tiny base model (once)")

        folder.mkdir(parents=True, exist_ok=True)
        command = ["services.trainer", "base", "--out", str(base), "--seed", str(wanted.seed)]
        processes.run_steps(command, folder / "base.log", step)
    return base


class Reproduction:
    """One experiment in one folder; `base` holds `hf` and `base-q8_0.gguf`."""

    def __init__(self, base: Path, folder: Path, size: Size, progress: Progress) -> None:
        self.base, self.gguf, self.size, self.progress = base / "hf", base / "base-q8_0.gguf", size, progress
        key = json.dumps([asdict(size), file_digest(self.gguf)], sort_keys=True)
        self.folder = folder / hashlib.sha256(key.encode()).hexdigest()[:12]

    def run(self, seeds: Sequence[int], arms: Sequence[Arm] = ARMS) -> list[dict[str, Any]]:
        """Return every seed's measurements, doing only what is not on file."""
        with BubblewrapSandbox(Limits(wall_seconds=2.0, cpu_seconds=2)) as sandbox:
            return [_Seed(self, seed, sandbox).run(arms) for seed in seeds]

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a measurement from its file, or make and keep it."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, json.dumps(make()))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


class _Seed:
    """One seed's fleet: what is trained on, tuned on and judged never overlap."""

    def __init__(self, whole: Reproduction, seed: int, sandbox: Sandbox) -> None:
        self.whole, self.seed, self.sandbox = whole, seed, sandbox
        self.base, self.gguf, self.size, self.progress = whole.base, whole.gguf, whole.size, whole.progress
        self.folder, size = whole.folder / f"seed-{seed}", whole.size
        items = some_work(seed, size.records + size.tune + size.issues)
        self.records, left = items[: size.records], items[size.records :]
        self.tune, self.judged = _problems(left[: size.tune]), _problems(left[size.tune :])

    def run(self, arms: Sequence[Arm]) -> dict[str, Any]:
        tuned = self.keep("tuned", self._tuned)
        temperature = float(tuned["temperature"])
        done = {"base": self.keep("base", lambda: self._judged(self.gguf, temperature))}
        done |= {arm: self.keep(arm, partial(self._arm, arm, temperature)) for arm in arms}
        return {"seed": self.seed, "tuned": tuned, "arms": done}

    def keep(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return self.whole.kept(f"seed-{self.seed}/{name}", make)

    def _tuned(self) -> dict[str, Any]:
        """Choose the base's temperature on issues that are not judged."""
        with LlamaServerSampler(self.gguf, context=CONTEXT) as sampler:
            passed = {
                t: sum(self._passes(sampler, self.tune, PLAIN.at(t), f"tuning at T={t:g}")) for t in self.size.grid
            }
        return {"temperature": max(passed, key=lambda t: passed[t]), "passed": {str(t): n for t, n in passed.items()}}

    def _arm(self, arm: Arm, temperature: float) -> dict[str, Any]:
        """Train one arm and judge it; where that cannot be, return the reason."""
        rows = self._rows(arm)
        try:
            gguf = self._trained(arm, rows)
        except Rejected as error:
            return {"rows": len(rows), "failed": error.message}
        return {"rows": len(rows), **self._judged(gguf, temperature)}

    def _rows(self, arm: Arm) -> list[Row]:
        """Select what an arm is trained on."""
        if arm == "merged":
            return [Row(item.body, item.after) for item in self.records]
        pool = self.keep("plain-pool" if arm == "control" else "pool", lambda: self._pool(arm))
        texts = zip(self.records, pool["texts"], pool["usable"], pool["passed"], strict=True)
        return [
            Row(item.body, text)
            for item, text, usable, passed in texts
            if usable and (passed or arm != "verified")
        ]  # fmt: skip

    def _pool(self, arm: Arm) -> dict[str, Any]:
        """Draw one completion a record from the base, and find out which are right."""
        sampling = PLAIN if arm == "control" else T_TRAIN
        problems = _problems(self.records)
        with LlamaServerSampler(self.gguf, context=CONTEXT) as sampler:
            drawn = self._draw(sampler, problems, sampling, 1, f"samples at T={sampling.temperature:g}")
        return {
            "texts": [answer.text for answer in drawn],
            "usable": [_usable(answer) for answer in drawn],
            "passed": [outcome.passed for outcome in grade(problems, drawn, self.sandbox)],
        }

    def _trained(self, arm: Arm, rows: Sequence[Row]) -> Path:
        """Train an adapter and merge it into the base's GGUF. Raises Rejected where it cannot be."""
        if not rows:
            raise Rejected("no sample passed: nothing to train on")
        folder = self.folder / arm
        folder.mkdir(parents=True, exist_ok=True)
        text, path = encode_rows(rows), folder / "rows.jsonl"
        path.write_bytes(text)
        epochs = max(1, round(self.size.epochs * self.size.records / len(rows)))
        lora = Lora(16, 32.0, TARGETS, 5e-3, 32, 32, epochs, 0, 256)
        digest = hashlib.sha256(text).hexdigest()
        plan = TrainPlan(self.seed, folder_digest(self.base), digest, len(rows), lora, self.seed, threads=1)
        shown = self._named(f"training {arm}")
        ProcessTrainer().train(plan, path, self.base, folder / "train", shown)
        GgufBuilder().merged(folder / "train" / "adapter", self.gguf, folder / "merged.gguf", 1.0)
        return folder / "merged.gguf"

    def _judged(self, gguf: Path, temperature: float) -> dict[str, Any]:
        """Return how many samples of every judged issue pass, at T = 1 and at the temperature tuned for the base."""
        with LlamaServerSampler(gguf, context=CONTEXT) as sampler:
            return {
                name: self._passes(sampler, self.judged, PLAIN.at(t), f"judging {gguf.parent.name} at T={t:g}")
                for name, t in (("plain", 1.0), ("tuned", temperature))
            }

    def _passes(
        self, sampler: LlamaServerSampler, problems: Sequence[Problem], sampling: Sampling, what: str
    ) -> list[int]:
        asked = [problem for problem in problems for _ in range(self.size.samples)]
        answers = self._draw(sampler, problems, sampling, self.size.samples, what)
        outcomes = grade(asked, answers, self.sandbox)
        step = self.size.samples
        return [sum(o.passed for o in outcomes[at : at + step]) for at in range(0, len(outcomes), step)]

    def _draw(
        self, sampler: LlamaServerSampler, problems: Sequence[Problem], sampling: Sampling, samples: int, what: str
    ) -> list[Completion]:
        """Draw `samples` completions a problem, with the same seeds whatever the model."""
        prompts = [Prompt(p.prompt, seed_of(self.seed, p.id, index)) for p in problems for index in range(samples)]
        return sampler.sample(prompts, sampling, self._named(what))

    def _named(self, what: str) -> Progress:
        return lambda done, total, _: self.progress(done, total, f"seed {self.seed}: {what}")


def lines(measured: Sequence[Mapping[str, Any]], samples: int) -> list[Line]:
    """Return the table: every arm at T = 1 and at the base's best T, over the issues of all seeds.

    Intervals are paired bootstraps by issue: they hold for these training runs. `by_seed` shows how runs differ.
    """
    plain, tuned = _scores(measured, "base", "plain", samples), _scores(measured, "base", "tuned", samples)
    found: list[Line] = []
    raw: dict[str, float] = {}
    for decode, reference, temperature in (("plain", plain, 1.0), ("tuned", tuned, 0.0)):
        for arm in measured[0]["arms"]:
            failed = [run["arms"][arm]["failed"] for run in measured if "failed" in run["arms"][arm]]
            if failed:
                found.append(Line(arm, temperature, None, None, None, None, note=failed[0]))
                continue
            own = _scores(measured, arm, decode, samples)
            over_base = None if arm == "base" else difference(own, reference)
            over_tuned = None if (arm, decode) == ("base", "tuned") else difference(own, tuned)
            by_seed = tuple(
                estimate(_scores([run], arm, decode, samples)).point for run in measured
            )  # fmt: skip
            if arm != "base":
                raw[f"{arm} {temperature:g}"] = sign_flip(deltas(own, tuned))
            found.append(Line(arm, temperature, estimate(own), estimate(own, samples), over_base, over_tuned, by_seed))
    adjusted = holm(raw)
    return [replace(line, p=adjusted.get(f"{line.arm} {line.temperature:g}")) for line in found]


def reading(table: Sequence[Line]) -> list[str]:
    """Say in words what the table shows, arm by arm, against the tuned base.

    Of an arm's two decodes the better one on these very issues is named, which flatters its number. To beat the base
    its interval must exclude 0, and so must the test that is adjusted for all arms and decodes.
    """
    said = []
    for arm in dict.fromkeys(line.arm for line in table if line.arm != "base"):
        shown = [line for line in table if line.arm == arm and line.over_tuned is not None]
        if not shown:
            said.append(f"{arm}: not trained in every seed.")
            continue
        best = max(shown, key=lambda line: line.over_tuned.point if line.over_tuned else -1.0)
        over = best.over_tuned
        assert over is not None  # noqa: S101  `shown` has no others
        where = "at T = 1" if best.temperature else "at the base's best T"
        sure = best.p is not None and best.p <= _ALPHA
        verdict = "beats" if over.low > 0 and sure else "is worse than" if over.high < 0 and sure else "does not beat"
        said.append(
            f"{arm} {verdict} the tuned base: {100 * over.point:+.1f} "
            f"[{100 * over.low:+.1f}, {100 * over.high:+.1f}] pp, p = {best.p:.2g}, best {where}."
        )
    return said


def _scores(measured: Sequence[Mapping[str, Any]], arm: str, decode: str, samples: int) -> Scores:
    counts = {f"{run['seed']}/{at}": n for run in measured for at, n in enumerate(run["arms"][arm][decode])}
    return Scores(tuple(counts), (samples,) * len(counts), tuple(counts.values()))


def _problems(items: Sequence[WorkItem]) -> list[Problem]:
    return [
        Problem(
            id=f"{item.repository}/{item.path}",
            repository=item.repository,
            pull=number,
            prompt=item.body,
            solution_path=item.path,
            tests=((item.test_path, item.test),),
            slices=item.slices,
        )
        for number, item in enumerate(items)
    ]


def _usable(answer: Completion) -> bool:
    """Tell what a night would train on: neither empty, nor a stub of one line, nor cut off."""
    return answer.finish == "stop" and "\n" in answer.text.strip()
