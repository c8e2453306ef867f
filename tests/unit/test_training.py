"""Plans, rows and results as values, and what a finished run must show."""

from __future__ import annotations

import dataclasses
import json
import math
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import training
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected
from fleetssd.placement import Placement
from fleetssd.recipe import Lora
from fleetssd.training import AdapterStats, Row, TrainPlan, TrainResult

LORA = Lora(
    rank=16,
    alpha=32.0,
    targets=("q_proj", "v_proj"),
    learning_rate=5e-3,
    batch=32,
    micro_batch=32,
    epochs=10,
    warmup_steps=2,
    max_length=512,
)
PLAN = TrainPlan(night=2, base_digest="b", rows_digest="r", rows=600, lora=LORA, seed=1, threads=1)
RESULT = TrainResult(
    adapter_digest="a",
    base_digest="b",
    rows_digest="r",
    rows_used=590,
    rows_too_long=10,
    steps=190,
    tokens=400_000,
    losses=tuple(0.5 / (1 + step) for step in range(190)),
    seconds=50.0,
    peak_rss_mb=870.0,
    backend="trl-cpu",
    versions={"torch": "2.13.0"},
)
ADAPTER = AdapterStats(digest="a", tensors=56, finite=True, largest_b=0.03)

TEXTS = st.text(max_size=30)
ROWS = st.lists(st.builds(Row, prompt=TEXTS, completion=TEXTS), max_size=8)


def test_a_tenth_of_a_run_warms_up_where_nothing_is_said() -> None:
    """500 rows make 64 steps of 16 in two epochs, of which 7 warm up; a stated number stands."""
    lora = dataclasses.replace(LORA, batch=16, micro_batch=1, epochs=2, warmup_steps=None)
    total = training.steps(500, lora)
    assert (total, training.warmup(lora, total)) == (64, 7)
    assert training.warmup(dataclasses.replace(lora, warmup_steps=0), total) == 0


def test_a_plan_of_before_the_floor_trains_as_it_did() -> None:
    """A plan on file that names no floor is one whose cosine ended at nothing; with one, the schedule says it."""
    table = PLAN.to_json()
    del table["lora"]["rate_floor"]
    assert training.schedule(TrainPlan.from_json(table).lora) == {"lr_scheduler_type": "cosine"}
    floored = training.schedule(dataclasses.replace(LORA, rate_floor=0.2))
    assert floored["lr_scheduler_kwargs"] == {"min_lr_rate": 0.2}


@given(ROWS)
def test_rows_survive_the_file(rows: list[Row]) -> None:
    """Whatever text the rows hold, line breaks of every alphabet included, they come back equal."""
    assert training.decode_rows(training.encode_rows(rows)) == tuple(rows)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"prompt": "p"}', b"\xff"])
def test_a_bad_row_is_named_by_its_line(line: bytes) -> None:
    """A line that is no pair raises Corrupt with its number."""
    good = training.encode_rows([Row("p", "c")])
    with pytest.raises(Corrupt, match="line 2"):
        training.decode_rows(good + line + b"\n")


def test_a_plan_survives_json() -> None:
    """A plan comes back from JSON equal, with the same digest."""
    again = TrainPlan.from_json(json.loads(json.dumps(PLAN.to_json())))
    assert again == PLAN
    assert again.digest == PLAN.digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"rows_digest": "s"},
        {"lora": dataclasses.replace(LORA, alpha=16.0)},
        {"base_digest": "c"},
        {"placement": Placement("unsloth", "cuda", "bfloat16")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_run_has_another_digest(change: dict[str, object]) -> None:
    """Each thing that changes the adapter changes the plan's digest."""
    other = dataclasses.replace(PLAN, **change)  # type: ignore[arg-type]  # one field at a time, typed above
    assert other.digest != PLAN.digest


@pytest.mark.parametrize("table", [{}, {"lora": {"targets": []}}, {**PLAN.to_json(), "extra": 1}, {"lora": None}])
def test_what_is_no_plan_is_corrupt(table: dict[str, object]) -> None:
    """A table with missing or unknown fields raises Corrupt."""
    with pytest.raises(Corrupt):
        TrainPlan.from_json(table)


def test_a_result_survives_json() -> None:
    """A result comes back from JSON equal; half of one is Corrupt."""
    table = json.loads(json.dumps(RESULT.to_json()))
    assert TrainResult.from_json(table) == RESULT
    del table["steps"]
    with pytest.raises(Corrupt):
        TrainResult.from_json(table)


def test_a_base_has_one_digest_over_all_its_weights() -> None:
    """The digest is that of the sorted sha256sum lines; no weights at all is a wrong setting."""
    lines = b"1  a.safetensors\n2  b.safetensors\n"
    files = {"b.safetensors": "2", "a.safetensors": "1"}
    assert training.weights_digest(files) == sha256(lines).hexdigest()
    with pytest.raises(Misconfigured):
        training.weights_digest({})


@pytest.mark.parametrize(
    ("rows", "batch", "micro", "epochs", "expected"),
    [(600, 32, 32, 10, 190), (300, 32, 32, 5, 50), (600, 32, 8, 10, 190), (5, 16, 1, 2, 2), (33, 32, 64, 1, 2)],
)
def test_steps_follow_from_rows_and_batches(rows: int, batch: int, micro: int, epochs: int, expected: int) -> None:
    """An epoch's last batch may be short; accumulation does not change the number of steps."""
    lora = dataclasses.replace(LORA, batch=batch, micro_batch=micro, epochs=epochs)
    assert training.steps(rows, lora) == expected


@given(rows=st.integers(1, 300), micro=st.integers(1, 8), times=st.integers(1, 8), epochs=st.integers(1, 4))
def test_every_row_is_seen_once_an_epoch(rows: int, micro: int, times: int, epochs: int) -> None:
    """The steps of all epochs hold every row, and one batch a step fewer would not."""
    lora = dataclasses.replace(LORA, batch=micro * times, micro_batch=micro, epochs=epochs)
    steps = training.steps(rows, lora)
    assert steps * lora.batch >= rows * epochs
    assert steps == epochs * math.ceil(rows / lora.batch)


def test_micro_batches_must_divide_the_batch() -> None:
    """A batch that micro-batches cannot make up is a wrong setting, with a way out."""
    with pytest.raises(Misconfigured) as caught:
        training.accumulation(dataclasses.replace(LORA, batch=32, micro_batch=5))
    assert "32" in caught.value.hint


@given(
    lengths=st.lists(st.integers(1, 99), max_size=200),
    batch=st.integers(1, 9),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_is_a_permutation(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    """Each row comes exactly once, and the same arguments give the same order."""
    order = training.batch_order(lengths, batch, seed, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == training.batch_order(lengths, batch, seed, epoch)


def test_an_epoch_saves_padding() -> None:
    """Rows of like length share a batch: padding falls below a tenth of what chance gives here."""
    lengths = [(index * 37) % 100 + 1 for index in range(600)]

    def padding(order: list[int]) -> int:
        batches = [order[at : at + 32] for at in range(0, len(order), 32)]
        return sum(max(lengths[row] for row in rows) * len(rows) for rows in batches) - sum(lengths)

    ordered = padding(training.batch_order(lengths, 32, seed=1, epoch=0))
    assert ordered < padding(list(range(600))) / 10


def test_epochs_differ() -> None:
    """Another epoch, or another seed, orders the rows anew."""
    lengths = [5] * 100
    orders = [training.batch_order(lengths, 8, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_good_run_is_acceptable() -> None:
    """A run that matches its plan and has learned something passes in silence."""
    training.acceptable(PLAN, RESULT, ADAPTER)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"base_digest": "x"}, Corrupt, "base digest"),
        ({"rows_digest": "x"}, Corrupt, "rows digest"),
        ({"adapter_digest": "x"}, Corrupt, "adapter digest"),
        ({"rows_used": 589}, Corrupt, "do not make 600"),
        ({"rows_used": 0, "rows_too_long": 600}, Rejected, "no row fits"),
        ({"steps": 189}, Corrupt, "189 steps"),
        ({"losses": RESULT.losses[1:]}, Corrupt, "189 losses"),
        ({"losses": (*RESULT.losses[1:], math.nan)}, Rejected, "NaN"),
        ({"losses": (*RESULT.losses[1:], math.inf)}, Rejected, "infinite"),
        ({"losses": tuple(0.5 + 0.05 * step for step in range(190))}, Rejected, "exploded"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else None,
)
def test_a_bad_run_is_refused(change: dict[str, object], error: type[FleetError], words: str) -> None:
    """Contradictions are Corrupt, training gone wrong is Rejected, and the message says which."""
    with pytest.raises(error, match=words):
        training.acceptable(PLAN, dataclasses.replace(RESULT, **change), ADAPTER)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adapter", "error"),
    [
        (dataclasses.replace(ADAPTER, tensors=0), Corrupt),
        (dataclasses.replace(ADAPTER, finite=False), Rejected),
        (dataclasses.replace(ADAPTER, largest_b=0.0), Rejected),
    ],
    ids=["empty", "not finite", "all zero"],
)
def test_an_adapter_that_says_nothing_is_refused(adapter: AdapterStats, error: type[FleetError]) -> None:
    """An empty, broken or all-zero adapter is never built on."""
    with pytest.raises(error):
        training.acceptable(PLAN, RESULT, adapter)


def test_a_noisy_or_over_trained_run_has_not_exploded() -> None:
    """A loss that wanders, or falls to nothing, is for the gate to judge."""
    assert not training.exploded([0.05, 0.4] * 30)
    assert not training.exploded([2.1] + [1e-4] * 100)
    assert training.exploded([0.5] * 20 + [9.0] * 20)


@given(ROWS, ROWS, st.floats(0.1, 3.0), st.integers(0, 9))
def test_mixed_rows_come_after_our_own_at_the_ratio(
    ours: list[Row], others: list[Row], ratio: float, seed: int
) -> None:
    """Our rows come first and whole; of the others as many as the ratio says, if there are so many, in their order."""
    both = training.mixed(ours, others, ratio, seed)
    assert both[: len(ours)] == ours
    assert len(both) - len(ours) == min(round(ratio * len(ours)), len(others))
    left = iter(others)
    assert all(row in left for row in both[len(ours) :])
    assert both == training.mixed(ours, others, ratio, seed)


def test_a_giant_row_does_not_set_the_length() -> None:
    """The length keeps 99 of 100 rows: with few rows all of them, with many not the longest."""
    assert training.length_limit([]) == 0
    assert training.length_limit([3, 9, 5]) == 9
    assert training.length_limit([*range(1, 200), 90_000]) == 198


@pytest.mark.parametrize(
    ("losses", "gone"),
    [([1.0] * 9, False), ([0.0] * 4, False), ([1.0, *[0.0] * 5], True), ([1e-4] * 5, True), ([0.006] * 50, False)],
)
def test_a_vanished_loss_is_a_few_steps_of_nothing(losses: list[float], gone: bool) -> None:
    """Five steps in a row below a thousandth of a nat; the demo's over-trained night stays above."""
    assert training.vanished(losses) is gone


def test_a_loss_that_vanishes_early_fails_the_run() -> None:
    """Nothing left to learn before four fifths of the steps is a failed run; after that it is none."""
    early = dataclasses.replace(RESULT, losses=(*[0.5] * 100, *[0.0] * 90))
    with pytest.raises(Rejected, match="by heart") as caught:
        training.acceptable(PLAN, early, ADAPTER)
    assert "recipe.epochs" in caught.value.hint
    training.acceptable(PLAN, dataclasses.replace(RESULT, losses=(*[0.5] * 152, *[0.0] * 38)), ADAPTER)
