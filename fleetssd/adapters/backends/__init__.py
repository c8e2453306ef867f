"""One run through one of three backends. Only the trainer's process loads this.

What a run is (rows as tokens, steps, guard, checkpoints, the published adapter) stands once, here and beside; a backend
only loads, wraps and fits.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fleetssd.adapters.backends.durable import newest_checkpoint, publish, write
from fleetssd.adapters.backends.guard import Step, guard
from fleetssd.adapters.backends.job import BackendModule, Job
from fleetssd.adapters.backends.preflight import preflight
from fleetssd.adapters.backends.rows import Encoded, context, encode, load_tokenizer
from fleetssd.adapters.backends.smoke import witness
from fleetssd.errors import Rejected, Transient
from fleetssd.fidelity import write_witnesses
from fleetssd.placement import Backend
from fleetssd.training import Row, TrainPlan, TrainResult, learned, steps

_MODULES: Mapping[Backend, str] = {"trl": "on_trl", "unsloth": "on_unsloth", "unsloth-mlx": "on_mlx"}


def train(
    plan: TrainPlan, rows: Sequence[Row], *, base: Path, out: Path, on_step: Step, stopped: Callable[[], bool]
) -> TrainResult:
    """Train one LoRA into `out/adapter`, resuming from the newest whole checkpoint in `out/checkpoints`.

    Raises Transient where `stopped` became true (a checkpoint is kept), Rejected where the loss left the numbers,
    exploded or fell to nothing, or no row fits, Corrupt where the template breaks the prompt, Misconfigured where the
    base cannot be read or the plan's device is not there.
    """
    started = time.monotonic()
    backend = cast("BackendModule", importlib.import_module(f"{__name__}.{_MODULES[plan.placement.backend]}"))
    with _uncollected():
        versions = backend.prepare(plan)
        import transformers  # noqa: PLC0415  after the backend: Unsloth must be first

    tokenizer = load_tokenizer(transformers, base)
    encoded = _fitting(encode(tokenizer, rows, plan.lora.max_length, context(base)))
    resume = newest_checkpoint(out / "checkpoints")
    preflight(plan, base, out, encoded.longest)
    job = Job(
        plan=plan,
        base=base,
        rows=encoded.rows,
        tokenizer=tokenizer,
        steps=steps(len(encoded.rows), plan.lora),
        max_length=encoded.limit,
        checkpoints=out / "checkpoints",
        resume=resume,
        guard=guard(transformers.TrainerCallback, on_step, stopped),
    )
    fitted = backend.fit(job)
    if fitted.step < job.steps:
        raise Transient(
            f"training was stopped after step {fitted.step} of {job.steps}",
            hint="Start it again: it resumes from its checkpoint.",
        )
    learned(fitted.losses)
    digest = publish(fitted.save, out)
    said = write_witnesses(witness(fitted.next_tokens, tokenizer, rows))
    write(out / "smoke.json", json.dumps(said, ensure_ascii=False, allow_nan=False).encode())
    return TrainResult(
        adapter_digest=digest,
        base_digest=plan.base_digest,
        rows_digest=plan.rows_digest,
        rows_used=len(encoded.rows),
        rows_too_long=encoded.too_long,
        steps=job.steps,
        tokens=encoded.tokens * plan.lora.epochs,
        losses=fitted.losses,
        seconds=round(time.monotonic() - started, 3),
        peak_rss_mb=round(peak_rss() / 2**20, 1),
        backend=f"{plan.placement.backend}-{plan.placement.device}",
        versions=dict(versions),
        peak_gpu_mb=peak_gpu_mb(),
        settings=fitted.settings,
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Import without the garbage collector, and never look at what was imported again.

    Nothing of half a million objects is garbage: looking took a quarter of the time until the first step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def peak_gpu_mb() -> float | None:
    """Return the most memory that PyTorch held on its accelerator, in MiB; None where there was none."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_available():
        return None
    return round(float(cuda.max_memory_allocated()) / 2**20, 1)


def peak_rss() -> int:
    """Return the process's largest resident set in bytes; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _fitting(encoded: Encoded) -> Encoded:
    if not encoded.rows:
        raise Rejected(
            f"no row fits: all {encoded.too_long} are longer than {encoded.limit} tokens",
            hint="Raise recipe.max_length or look at the records.",
        )
    return encoded
