"""What a run will need at least of disk and memory, so that it fails before an hour is spent and not after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetssd.errors import Misconfigured
from fleetssd.training import TrainPlan

LIBRARIES = 400 << 20
"""Bytes of the training stack itself, resident on the CPU (measured: 440 MB)."""

_WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_FOUR_BITS = 0.55
"""NF4 with its scales, in bytes a value."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Lower bounds in bytes: a run that has less cannot end well; one that has more may still be tight."""

    disk: int
    memory: int


def lora_values(shapes: Mapping[str, tuple[int, ...]], rank: int, targets: tuple[str, ...]) -> int:
    """Count the adapter's values: rank times (in + out) for each matrix of the base that is a target."""
    adapted = (shape for name, shape in shapes.items() if name.removesuffix(".weight").rpartition(".")[2] in targets)
    return sum(rank * sum(shape) for shape in adapted if len(shape) == 2)


def needs(plan: TrainPlan, shapes: Mapping[str, tuple[int, ...]], longest: int, beside: int) -> Needs:
    """Estimate a run over a base of these shapes whose longest row has `longest` tokens.

    Disk: the adapter in float32 and three checkpoints (two kept, one being written) of weights and Adam's two moments,
    each with `beside` bytes of tokenizer. Memory: the base, sixteen bytes a trained value (weight, gradient, moments)
    and one row of logits in float32, which no loss does without.
    """
    trained = lora_values(shapes, plan.lora.rank, plan.lora.targets)
    values = sum(_product(shape) for shape in shapes.values())
    vocabulary = max((shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), default=0)
    width = _FOUR_BITS if plan.placement.qlora else _WIDTHS[plan.placement.dtype]
    stack = LIBRARIES if plan.placement.kind == "cpu" else 0
    return Needs(
        disk=4 * trained + 3 * (12 * trained + beside),
        memory=int(values * width) + 16 * trained + 4 * longest * vocabulary + stack,
    )


def check(need: Needs, disk: int, memory: int | None) -> None:
    """Raise Misconfigured, with a way out, where the disk or the memory that is free is less than the least."""
    if disk < need.disk:
        raise Misconfigured(
            f"training needs {_mb(need.disk)} MB of disk for its checkpoints and {_mb(disk)} MB are free",
            hint="Make room in data_dir (old nights, mirrors), or lower recipe.rank.",
        )
    if memory is not None and memory < need.memory:
        raise Misconfigured(
            f"training needs at least {_mb(need.memory)} MB of memory and {_mb(memory)} MB are free",
            hint="Stop what else uses the device, lower recipe.max_length, or set recipe.qlora on an accelerator.",
        )


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _mb(count: int) -> int:
    return -(-count // 1_000_000)
