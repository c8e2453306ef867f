"""Times our trainer, from plan to accepted adapter, against a bare TRL script that makes the same updates.

Both train the same random Qwen3 on the same rows in the same order; that the adapters are equal byte for byte shows
that the updates were the same. Both are alive at once and take turns of `--slice` seconds (`benchmarks/turns.py`). It
first trains `OWN_STEPS` steps with a stopwatch around what is not our code, which also says how many steps make
`--seconds` of training. It tells how far it is every `TELL` seconds; stopped, by a signal or by `--limit`, it prints
what it has. The interval is a bootstrap over groups of steps that both sides made within a few turns of each other.
Run it on a machine that does nothing else:

    python benchmarks/train_overhead.py              # 2 rounds, 130 s of training a side and round: 10 to 12 minutes
    python benchmarks/train_overhead.py --short      # does it run?
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.neighbours import Watch  # noqa: E402
from benchmarks.train_sides import LORA, rows_of  # noqa: E402
from benchmarks.turns import Side, take_turns  # noqa: E402
from fleetssd.adapters.trainer_process.child import environment  # noqa: E402
from fleetssd.training import TrainPlan, batch_order, encode_rows, weights_digest  # noqa: E402

WALL_GOAL, STEP_GOAL_MS, JOB_GOAL, FIRST_GOAL = 1.03, 1.0, 0.5, 6.0
LEAST_TRAINING, LEAST_STEP = 120.0, 0.3
"""Seconds of training a side and round, and of a step, below which a ratio says little."""
GROUP = 10
"""Steps whose times are compared as a pair: both sides make them within a few turns of each other."""
OWN_STEPS = 64
"""A small night: 512 rows."""
TELL = 15.0


def started(name: str, *arguments: Path | int, home: Path) -> Side:
    """Start a verb of `benchmarks.train_sides` with the trainer's own environment."""
    command = [sys.executable, "-m", "benchmarks.train_sides", name, *map(str, arguments)]
    surroundings = environment(home, 1) | {"PATH": os.environ["PATH"]}
    return Side(name, command, surroundings, home / f"{name}.log")


def waited(name: str, *arguments: Path | int, home: Path) -> Side:
    """Run a verb of `benchmarks.train_sides` to its end."""
    side = started(name, *arguments, home=home)
    try:
        while not side.turn(TELL):
            tell(f"{name}: {len(side.told)} steps")
    finally:
        side.end()
    return side


def tell(line: str) -> None:
    """Say how far it is, beside the table."""
    print(f"{line}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Job:
    """What is trained: the rows as a night has them, and in the order in which our trainer takes them."""

    base: Path
    plan: Path
    rows: Path
    ordered: Path
    steps: int


def digest(path: Path) -> str:
    """Return a file's sha256 (hex)."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def job_of(scratch: Path, base: Path, count: int) -> Job:
    """Write plan and rows of so many steps; the order of rows follows from their lengths, which a child counts."""
    folder = scratch / f"job{count}"
    folder.mkdir()
    made = rows_of(count * LORA.batch)
    job = Job(base, folder / "plan.json", folder / "rows.jsonl", folder / "ordered.jsonl", count)
    job.rows.write_bytes(encode_rows(made))
    weights = weights_digest({path.name: digest(path) for path in base.glob("*.safetensors")})
    plan = TrainPlan(1, weights, digest(job.rows), len(made), LORA, seed=1, threads=1)
    job.plan.write_text(json.dumps(plan.to_json()))
    lengths = waited("count", base, job.rows, home=folder).said["lengths"]["tokens"]
    job.ordered.write_bytes(encode_rows([made[at] for at in batch_order(lengths, LORA.batch, 1, 0)]))
    return job


@dataclass(frozen=True)
class Round:
    """Both sides, whole or as far as they came."""

    ours: Side
    bare: Side

    @property
    def whole(self) -> bool:
        """Whether both have made their adapter."""
        return "adapter" in self.ours.said and "adapter" in self.bare.said

    @property
    def groups(self) -> list[tuple[float, float]]:
        """Seconds of ours and of the bare script for each group of steps after the first that both have made."""
        cuts = (side.told[::GROUP] for side in (self.ours, self.bare))
        spans = ([b - a for a, b in itertools.pairwise(at)] for at in cuts)
        return list(zip(*spans, strict=False))


def begun(folder: Path, job: Job, first: str) -> tuple[Round, list[Side]]:
    """Start both, stopped, with clocks at nothing: ours when it is ready, for a night is up already."""
    folder.mkdir()
    ours_ = started("ours", job.plan, job.base, job.rows, folder / "ours", home=folder)
    ours_.wait_stopped()
    (folder / "bare").mkdir()
    bare_ = started("bare", job.base, job.ordered, folder / "bare", home=folder)
    bare_.pause()
    bare_.spent = 0.0
    return Round(ours_, bare_), [ours_, bare_] if first == "ours" else [bare_, ours_]


class Teller:
    """Tells after a turn, every `TELL` seconds, how far both are and the ratio of what they did so far."""

    def __init__(self, rounds: list[Round], wanted: int, job: Job, limit: float) -> None:
        self._rounds, self._wanted, self._steps = rounds, wanted, job.steps
        self._last = self._began = time.monotonic()
        self._limit = self._began + limit

    def __call__(self) -> None:
        """Tell, if it is time; raise Ended where no time is left."""
        now, race = time.monotonic(), self._rounds[-1]
        if now > self._limit:
            raise Ended(0)
        if now < self._last + TELL or not race.bare.told:
            return
        self._last = now
        made = sum(len(side.told) for each in self._rounds for side in (each.ours, each.bare))
        left = (now - self._began) / made * (2 * self._steps * self._wanted - made) if made else math.nan
        tell(
            f"round {len(self._rounds)} of {self._wanted}: ours at step {len(race.ours.told)} of {self._steps}, bare "
            f"at {len(race.bare.told)}; ratio of steps {shown(*of_steps(self._rounds))}; {left / 60:.1f} minutes left"
        )


class Ended(BaseException):
    """Stop here and print what there is; `code` is the signal's exit code, 0 for the limit."""

    def __init__(self, code: int) -> None:
        self.code = code


def interval(pairs: Sequence[tuple[float, float]], fixed: tuple[float, float] = (0.0, 0.0)) -> list[float]:
    """Return the 95 % percentile bootstrap of sum(ours) / sum(bare) over pairs, beside seconds that stay fixed."""
    from scipy import stats  # noqa: PLC0415  slow to import, and children need none of it

    if len(pairs) < 3:
        return [math.nan, math.nan]
    found = stats.bootstrap(
        tuple(zip(*pairs, strict=True)),
        lambda a, b, axis: (fixed[0] + a.sum(axis)) / (fixed[1] + b.sum(axis)),
        paired=True, vectorized=True, method="percentile", n_resamples=5000, random_state=0,
    )  # fmt: skip
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def of_steps(rounds: Sequence[Round]) -> tuple[float, list[float]]:
    """Return ours over bare for all groups of steps that both made, with its interval."""
    pairs = [pair for each in rounds for pair in each.groups]
    bare_ = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / bare_ if pairs else math.nan, interval(pairs)


def of_wall(rounds: Sequence[Round]) -> tuple[float, list[float]]:
    """Return ours over bare for whole rounds, starts and ends too; the interval is of what the steps' times vary by."""
    whole = [each for each in rounds if each.whole]
    pairs = [pair for each in whole for pair in each.groups]
    spent = sum(each.ours.spent for each in whole), sum(each.bare.spent for each in whole)
    fixed = spent[0] - sum(pair[0] for pair in pairs), spent[1] - sum(pair[1] for pair in pairs)
    return (spent[0] / spent[1], interval(pairs, fixed)) if whole else (math.nan, [math.nan, math.nan])


def shown(ratio: float, bounds: Sequence[float]) -> str:
    """Return a ratio with its interval, where there is one."""
    if math.isnan(bounds[0]):
        return "unknown yet" if math.isnan(ratio) else f"{ratio:.3f}"
    return f"{ratio:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def table(rounds: Sequence[Round]) -> str:
    """Return what each side took, round by round; a row of a round that was stopped ends with its steps."""
    rows = [f"{'':22}{'wall s':>8}{'processor s':>13}{'1st told at s':>14}{'a step s':>10}{'steps':>7}"]
    for number, each in enumerate(rounds, start=1):
        for side in (each.ours, each.bare):
            gaps = [b - a for a, b in itertools.pairwise(side.told)] or [math.nan]
            told = side.told or [math.nan]
            cpu = f"{side.cpu - side.said.get('ready', {}).get('cpu', 0.0):.1f}" if "adapter" in side.said else "-"
            rows.append(
                f"round {number}, {side.name:13}{side.spent:8.1f}{cpu:>13}{told[0]:14.2f}"
                f"{statistics.median(gaps):10.3f}{len(side.told):7}"
            )
    return "\n".join(rows)


def compare(options: argparse.Namespace, scratch: Path) -> tuple[dict[str, object], int]:
    """Make base and rows, run both in turns, print the table, and return the claim and an exit code."""
    base, rounds, code = scratch / "base", list[Round](), 0
    waited("make", base, options.hidden, options.layers, home=scratch)
    small = job_of(scratch, base, options.own_steps)
    mine = waited("own", small.plan, base, small.rows, scratch / "own", home=scratch)
    step = statistics.median(b - a for a, b in itertools.pairwise(mine.told))
    job = job_of(scratch, base, options.steps or max(4 * GROUP, math.ceil(options.seconds / step)))
    tell(f"our own code: {spoken(mine)}; a step takes {step:.2f} s, so {job.steps} steps a side and round")
    teller, watch = Teller(rounds, options.rounds, job, 60 * options.limit), Watch(scratch)
    try:
        for number in range(options.rounds):
            race, sides = begun(scratch / f"round{number}", job, ("bare", "ours")[number % 2])
            rounds.append(race)
            take_turns(sides, options.slice, teller)
    except Ended as ended:
        code = ended.code
    span = watch.span()
    print(table(rounds))
    busy = {"others": None if span.others is None else round(span.others / span.wall, 2)}
    print(f"others used {busy['others']} of {os.cpu_count()} processors meanwhile")
    return claim(rounds, mine, options) | busy, code


def spoken(mine: Side) -> str:
    """Say what our own code cost."""
    own_ = mine.said["own"]
    return (
        f"{1000 * own_['step']:.2f} ms a step and {own_['job']:.2f} s a job ({own_['asking']:.2f} s of it the model's "
        f"witness), without {own_['tokenising']:.2f} s of tokenising"
    )


def claim(rounds: Sequence[Round], mine: Side, options: argparse.Namespace) -> dict[str, object]:
    """Print the ratios and return what was found, beside what is promised."""
    whole, own_ = [each for each in rounds if each.whole], mine.said["own"]
    (wall, wall_in), (paired, paired_in) = of_wall(rounds), of_steps(rounds)
    print(f"wall {shown(wall, wall_in)} of whole rounds; steps alone {shown(paired, paired_in)}")
    print(f"our own code: {spoken(mine)}")
    if not whole:
        wall, wall_in = paired, paired_in
    trained = min((side.told[-1] - side.told[0] for each in whole for side in (each.ours, each.bare)), default=0.0)
    made = max((len(each.ours.told) for each in rounds), default=0)
    parent = max((each.ours.said["adapter"]["parent"] for each in whole), default=0.0)
    digests = {side.said["adapter"]["digest"] for each in whole for side in (each.ours, each.bare)}
    step = trained / max(1, made - 1)
    # A step is told when it ends: the first one began about a step earlier.
    first = statistics.median([each.ours.told[0] - step for each in whole] or [math.nan])
    meets = {
        "wall": wall <= WALL_GOAL,
        "own_step": 1000 * own_["step"] <= STEP_GOAL_MS,
        "own_job": own_["job"] + parent <= JOB_GOAL,
        "first_step": first <= FIRST_GOAL,
        "size": trained >= LEAST_TRAINING and step >= LEAST_STEP,
        "same_adapter": len(digests) == 1,
    }
    return {
        "claim": "our trainer's wall over a bare TRL script with the same updates",
        "value": rounded(wall, 4),
        "interval": [rounded(bound, 4) for bound in wall_in],
        "goal": WALL_GOAL,
        "holds": all(meets.values()),
        "meets": meets,
        "whole_rounds": len(whole),
        "asked_rounds": options.rounds,
        "peer": {"name": "bare TRL", "value": rounded(sum(each.bare.spent for each in whole), 1)},
        "steps_ratio": {"value": rounded(paired, 4), "interval": [rounded(bound, 4) for bound in paired_in]},
        "step_seconds": rounded(step, 3),
        "trained_seconds": rounded(trained, 1),
        "to_first_step_seconds": rounded(first, 2),
        "own_ms_a_step": rounded(1000 * own_["step"], 3),
        "own_seconds_a_job": rounded(own_["job"] + parent, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def rounded(value: float, digits: int) -> float | None:
    """Return a number as JSON knows it: what was not measured is null."""
    return round(value, digits) if math.isfinite(value) else None


def ended(number: int, _: object) -> NoReturn:
    """Take a signal as the wish to see what there is."""
    raise Ended(128 + number)


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=130.0, help="of training a side and round (default 130)")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of --seconds")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (default 2)")
    parser.add_argument("--slice", type=float, default=2.0, help="seconds of a turn (default 2)")
    parser.add_argument(
        "--limit", type=float, default=12.0, help="minutes after which it prints what it has (default 12)"
    )
    parser.add_argument("--hidden", type=int, default=256, help="width of the model (default 256)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the model (default 8)")
    parser.add_argument("--short", action="store_true", help="a few small steps, to see that it runs")
    options = parser.parse_args()
    options.own_steps = OWN_STEPS
    if options.short:
        options.steps, options.rounds, options.hidden, options.layers, options.own_steps = 41, 1, 64, 2, 12
    return options


def main() -> int:
    """Compare, and print the claim as one JSON object, last."""
    options = parsed()
    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found, code = compare(options, Path(folder))
        except Ended as early:
            print("stopped before both sides ran: nothing is known")
            return early.code
    print(json.dumps(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
