"""The verb `audit --ab`: ask what serves now the same solved issues at several temperatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product

from fleetssd.admission import executed
from fleetssd.audit.advice import Comparison, weigh
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.operations.evaluate import BLOCKS, blocks, grade
from fleetssd.operations.freeze import parted, production_decode
from fleetssd.operations.learn import seed_of
from fleetssd.operations.posing import pose
from fleetssd.ports import Engine, Grounds, Progress, Prompt, Sandbox, Store
from fleetssd.problems import Problem
from fleetssd.recipe import Sampling
from fleetssd.scoring import tally
from fleetssd.serving import served

MIN_ISSUES = 20
CANDIDATES = (0.7, 0.3)
"""Asked beside decode.tau_grid: what coding tools usually set, and what people set who want less chance."""


def compare(
    settings: Settings,
    store: Store,
    engine: Engine,
    sandbox: Sandbox,
    grounds: Grounds,
    progress: Progress,
    *,
    issues: int = MIN_ISSUES,
    samples: int = 4,
) -> Comparison:
    """Ask the alias every issue `samples` times at each temperature, arms interleaved, seeds shared.

    Temperatures are effective ones: of a baked checkpoint T/τ is asked. Raises Misconfigured where fewer than
    `issues` held-out issues have tests, and what the engine and the sandbox raise.
    """
    chosen, judged = choose(settings, store.held_out_ids(), issues, executed(store.admissions()))
    problems = [pose(record, settings, grounds) for record in store.records_by_id(chosen)]
    checkpoint = served(store.swaps(), store.checkpoints())
    tau = checkpoint.tau if checkpoint is not None else 1.0
    decode = production_decode(settings)
    current = round(decode.temperature * tau, 6)
    asked = list(dict.fromkeys([current, *CANDIDATES, *settings.decode.tau_grid]))
    rows: dict[float, list[tuple[str, bool, bool]]] = defaultdict(list)
    done, total = 0, len(asked) * len(problems) * samples
    for block, temperature in product(blocks(problems, BLOCKS), asked):
        sampling = replace(decode, temperature=temperature / tau)
        rows[temperature] += _ask(settings, engine, sandbox, block, sampling, samples)
        done += len(block) * samples
        progress(done, total, f"answers at T = {temperature:g}")
    # A void answer counts against the change: for the current temperature it passes, for the others it fails.
    scores = {t: tally(rows[t], voids_pass=t == current) for t in asked}
    return Comparison(weigh(scores, current), len(problems), judged, samples)


def choose(
    settings: Settings, held_out: Sequence[str], issues: int, admitted: Collection[str]
) -> tuple[list[str], int]:
    """Return the ids of the records to ask, and how many of them judge nights too.

    Those that only choose a temperature come first, all of them; judges fill up to `issues`, since each look at them
    wears them a little. Raises Misconfigured where there are too few.
    """
    tune, judge = parted(settings, held_out, admitted)
    filled = judge[: max(0, issues - len(tune))]
    if len(tune) + len(filled) < issues:
        raise Misconfigured(
            f"{len(tune) + len(filled)} verified held-out issues are too few to compare temperatures ({issues})",
            hint="`fleetssd heldout verify` looks at what is new. Fewer issues would show nothing but noise.",
        )
    return [*tune, *filled], len(filled)


def _ask(
    settings: Settings,
    engine: Engine,
    sandbox: Sandbox,
    block: Sequence[Problem],
    sampling: Sampling,
    samples: int,
) -> list[tuple[str, bool, bool]]:
    asked = [(problem, index) for problem in block for index in range(samples)]
    seed = settings.evaluation.seed
    prompts = [Prompt(problem.prompt, seed_of(seed, "ab", problem.id, index)) for problem, index in asked]
    answers = engine.complete(settings.engine.alias, prompts, sampling, lambda *_: None)
    outcomes = grade([problem for problem, _ in asked], answers, sandbox)
    return [(problem.id, o.passed, o.fault) for (problem, _), o in zip(asked, outcomes, strict=True)]
