"""What is trained, and what makes a finished run acceptable: TrainPlan in, TrainResult out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.placement import Placement
from fleetssd.recipe import Lora

VANISHED = 1e-3
"""Nats a token: below it there is nothing left to learn. A healthy night of the toy ends above 0.03."""
VANISHED_STEPS = 5
VANISHED_BEFORE = 0.8
VANISHED_WORDS = f"the loss fell to nothing before {VANISHED_BEFORE:.0%} of the steps: the rows are learned by heart"
VANISHED_HINT = "Look for copies among the rows; lower recipe.epochs or recipe.learning_rate."

POOL = 20
"""Batches that are sorted by length together; enough to save padding, few enough to keep an epoch mixed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training pair: the user's message and the assistant's answer, both plain text."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One run, serialisable and free of local paths.

    `base_digest` is the `weights_digest` of the base's safetensors, `rows_digest` the sha256 of the rows file
    (JSON Lines, `encode_rows`).
    """

    night: int
    base_digest: str
    rows_digest: str
    rows: int
    lora: Lora
    seed: int
    threads: int
    placement: Placement = field(default_factory=Placement)

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> TrainPlan:
        """Rebuild a plan from `to_json` after a round trip through JSON. Raises Corrupt."""
        try:
            lora = Lora(**{**table["lora"], "targets": tuple(table["lora"]["targets"])})
            placement = Placement(**table.get("placement", {}))
            return cls(**{**table, "lora": lora, "placement": placement})
        except (KeyError, TypeError) as error:
            raise Corrupt(f"not a training plan: {error}", hint="Remove the run's folder and start it again.") from None

    @property
    def digest(self) -> str:
        """Sha256 over the canonical JSON: two plans with one digest make one adapter."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run says of itself; written last, so its existence means that the adapter is whole.

    `losses` is one value a step; `tokens` counts prompt and completion tokens over all epochs; seconds are wall
    clock of the last process; `peak_rss_mb` is in MiB. `adapter_digest` is the sha256 of adapter_model.safetensors.
    Null where nobody can tell: processor and accelerator seconds and the machine's joules over all starts of the run,
    and the accelerator's peak memory (MiB). `settings` are what the backend's trainer was told, by its own names.
    """

    adapter_digest: str
    base_digest: str
    rows_digest: str
    rows_used: int
    rows_too_long: int
    steps: int
    tokens: int
    losses: tuple[float, ...]
    seconds: float
    peak_rss_mb: float
    backend: str
    versions: dict[str, str]
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    energy_joules: float | None = None
    peak_gpu_mb: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> TrainResult:
        """Rebuild a result from `to_json` after a round trip through JSON. Raises Corrupt."""
        try:
            return cls(**{**table, "losses": tuple(table["losses"]), "versions": dict(table["versions"])})
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"not a training result: {error}", hint="Remove the run's folder; it trains again.") from None


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """What an adapter file holds, measured from its bytes. `largest_b` is the largest |value| of any lora_B."""

    digest: str
    tensors: int
    finite: bool
    largest_b: float


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return the rows as JSON Lines, one canonical spelling, so that equal rows have one digest."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def decode_rows(data: bytes) -> tuple[Row, ...]:
    """Read what `encode_rows` wrote. Raises Corrupt, naming the line."""
    rows = []
    for number, line in enumerate(data.decode(errors="replace").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append(Row(prompt=str(row["prompt"]), completion=str(row["completion"])))
        except (ValueError, KeyError, TypeError):
            raise Corrupt(f"training rows, line {number}: not a prompt and a completion") from None
    return tuple(rows)


def mixed(rows: Sequence[Row], others: Sequence[Row], ratio: float, seed: int) -> list[Row]:
    """Return the rows followed by `ratio` times as many others, drawn without replacement, the same for one seed.

    Where there are too few others, all of them are taken.
    """
    wanted = min(round(ratio * len(rows)), len(others))
    drawn = Random(f"mix:{seed}").sample(range(len(others)), wanted)  # noqa: S311  which rows is no secret
    return [*rows, *(others[index] for index in sorted(drawn))]


def length_limit(lengths: Sequence[int]) -> int:
    """Return the length that 99 of 100 rows keep within: a single giant would set the memory of every night."""
    return sorted(lengths)[math.ceil(0.99 * len(lengths)) - 1] if lengths else 0


def weights_digest(files: Mapping[str, str]) -> str:
    """Return one sha256 (hex) for a base, given the sha256 of each of its `*.safetensors` by file name.

    It is taken over their sorted `sha256  name` lines, as `sha256sum` prints them. Raises Misconfigured.
    """
    if not files:
        raise Misconfigured(
            "the base has no .safetensors weights",
            hint="Point base.weights at a Hugging Face model folder with safetensors.",
        )
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def accumulation(lora: Lora) -> int:
    """Return how many micro-batches make one optimiser step. Raises Misconfigured where they do not divide."""
    micro = min(lora.micro_batch, lora.batch)
    if lora.batch % micro:
        raise Misconfigured(
            f"recipe.batch = {lora.batch} is not a multiple of recipe.micro_batch = {lora.micro_batch}",
            hint=f"Set micro_batch to a divisor of {lora.batch}.",
        )
    return lora.batch // micro


def steps(rows: int, lora: Lora) -> int:
    """Return the number of optimiser steps for so many usable rows; an epoch's last batch may be short."""
    micro_batches = math.ceil(rows / min(lora.micro_batch, lora.batch))
    return lora.epochs * math.ceil(micro_batches / accumulation(lora))


def warmup(lora: Lora, total: int) -> int:
    """Return how many of a run's steps lead up to the peak learning rate."""
    return math.ceil(total / 10) if lora.warmup_steps is None else lora.warmup_steps


def schedule(lora: Lora) -> dict[str, Any]:
    """Return the learning rate's cosine by the names that transformers and MLX's trainer share."""
    if not lora.rate_floor:
        return {"lr_scheduler_type": "cosine"}
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": lora.rate_floor}}


def batch_order(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[int]:
    """Return the row indices of one epoch, batch after batch, rows of like length together.

    Padding is work for nothing: on the toy corpus this saves a third of a step. Rows are shuffled into pools of
    `POOL` batches, sorted inside a pool, cut, and the batches shuffled; a short batch comes last, as samplers cut it,
    but is made of rows of any length.
    """
    random = Random(f"{seed}:{epoch}")  # noqa: S311  the order of training rows is no secret
    left = list(range(len(lengths)))
    random.shuffle(left)
    full: list[list[int]] = []
    short: list[int] = []
    for start in range(0, len(left), batch * POOL):
        pool = sorted(left[start : start + batch * POOL], key=lengths.__getitem__)
        cut = batch * random.randrange(len(pool) // batch + 1)
        short = pool[cut : cut + len(pool) % batch]
        pool[cut : cut + len(short)] = []
        full += [pool[at : at + batch] for at in range(0, len(pool), batch)]
    random.shuffle(full)
    return [row for rows in [*full, short] for row in rows]


def acceptable(plan: TrainPlan, result: TrainResult, adapter: AdapterStats) -> None:
    """Return where a finished run may be built on.

    Raises Corrupt where files and claims contradict each other, Rejected where training itself went wrong.
    """
    _is_of_this_plan(plan, result, adapter)
    if result.rows_used == 0:
        raise Rejected(
            f"no row fits: {result.rows_too_long} of {plan.rows} are longer than {plan.lora.max_length} tokens",
            hint="Raise recipe.max_length or look at the records.",
        )
    if result.steps != steps(result.rows_used, plan.lora) or len(result.losses) != result.steps:
        raise Corrupt(
            f"the run reports {result.steps} steps and {len(result.losses)} losses for {result.rows_used} rows"
        )
    learned(result.losses)
    _says_something(adapter)


def _is_of_this_plan(plan: TrainPlan, result: TrainResult, adapter: AdapterStats) -> None:
    for what, planned, found in (
        ("base", plan.base_digest, result.base_digest),
        ("rows", plan.rows_digest, result.rows_digest),
        ("adapter", result.adapter_digest, adapter.digest),
    ):
        if planned != found:
            raise Corrupt(f"{what} digest is {found[:12]}, not {planned[:12]}", hint="Remove the run's folder.")
    if result.rows_used + result.rows_too_long != plan.rows:
        raise Corrupt(f"{result.rows_used} rows used and {result.rows_too_long} too long do not make {plan.rows}")


def learned(losses: Sequence[float]) -> None:
    """Return where these losses, one a step, are those of a run that learned. Raises Rejected, with the reason."""
    if not all(math.isfinite(loss) for loss in losses):
        raise Rejected("the loss became NaN or infinite", hint="Lower recipe.learning_rate.")
    if exploded(losses):
        raise Rejected(
            f"the loss exploded from {losses[0]:.2f} to {losses[-1]:.2f} nats", hint="Lower recipe.learning_rate."
        )
    if vanished(losses[: int(len(losses) * VANISHED_BEFORE)]):
        raise Rejected(VANISHED_WORDS, hint=VANISHED_HINT)


def _says_something(adapter: AdapterStats) -> None:
    if adapter.tensors == 0:
        raise Corrupt("the adapter file holds no tensor")
    if not adapter.finite:
        raise Rejected("the adapter holds NaN or infinite weights", hint="Lower recipe.learning_rate.")
    if adapter.largest_b == 0.0:
        raise Rejected("the adapter is all zeros: nothing was learned", hint="Look at the learning rate and the rows.")


def exploded(losses: Sequence[float]) -> bool:
    """Tell whether the last tenth of the losses lies above twice the first tenth plus one nat.

    The bound is wide on purpose: an over-trained night is for the gate to judge, by what the checkpoint does.
    """
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return last > 2.0 * first + 1.0


def vanished(losses: Sequence[float]) -> bool:
    """Tell whether some `VANISHED_STEPS` losses in a row are nothing on average."""
    windows = (losses[at : at + VANISHED_STEPS] for at in range(len(losses) - VANISHED_STEPS + 1))
    return any(sum(window) < VANISHED * VANISHED_STEPS for window in windows)
