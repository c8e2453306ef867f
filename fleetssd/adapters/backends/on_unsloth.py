"""Unsloth over PyTorch: CUDA, ROCm, XPU, and the CPU backend that it brings along.

Importing it patches transformers, PEFT and TRL for the whole process, and it must come before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleetssd.adapters.backends import sft
from fleetssd.adapters.backends.job import Fitted, Job
from fleetssd.adapters.backends.rows import cannot_load
from fleetssd.errors import Misconfigured
from fleetssd.training import TrainPlan


def prepare(plan: TrainPlan) -> Mapping[str, str]:
    """Import Unsloth first, then the stack. Raises Misconfigured where it took another device than the plan's."""
    unsloth = load(plan.placement.kind)
    return {**sft.load(plan.threads).versions, "unsloth": unsloth.__version__}


def load(kind: str) -> Any:
    """Import Unsloth and prove that it took this kind of device ("mlx" is its word for Apple Silicon)."""
    try:
        import unsloth  # noqa: PLC0415  it patches what is imported after it
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise Misconfigured(
            f"Unsloth cannot start on {kind}: {(str(error) or type(error).__name__).splitlines()[0]}",
            hint="pip install 'fleetssd[unsloth]', and look at the driver; a run never changes its device by itself.",
        ) from error
    taken = "cuda" if unsloth.DEVICE_TYPE == "hip" else unsloth.DEVICE_TYPE
    if taken != kind:
        raise Misconfigured(
            f"the plan is for {kind} and Unsloth took {taken}",
            hint="Mend the driver; a run never changes its device by itself.",
        )
    return unsloth


def fit(job: Job) -> Fitted:
    """Load and wrap the base by Unsloth's own calls, then train as TRL does. Raises Misconfigured."""
    unsloth = load(job.plan.placement.kind)
    libraries = sft.load(job.plan.threads)
    libraries.transformers.set_seed(job.plan.seed)
    try:
        model, _ = unsloth.FastLanguageModel.from_pretrained(**from_pretrained(job, libraries))
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(error) from error
    libraries.transformers.set_seed(job.plan.seed)  # loading may have drawn; the adapter starts where TRL's does
    model = unsloth.FastLanguageModel.get_peft_model(model, **get_peft_model(job.plan))
    return sft.fit(job, libraries, model)


def from_pretrained(job: Job, libraries: sft.Libraries) -> dict[str, Any]:
    """Return the arguments of `FastLanguageModel.from_pretrained`; a folder is never looked up on a hub."""
    return {
        "model_name": str(job.base),
        "max_seq_length": job.max_length,
        "dtype": getattr(libraries.torch, job.plan.placement.dtype),
        "load_in_4bit": job.plan.placement.qlora,
    }


def get_peft_model(plan: TrainPlan) -> dict[str, Any]:
    """Return the arguments of `FastLanguageModel.get_peft_model`."""
    return {
        "r": plan.lora.rank,
        "lora_alpha": plan.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(plan.lora.targets),
        "use_gradient_checkpointing": "unsloth" if plan.placement.kind != "cpu" else False,
        "random_state": plan.seed,
        "use_rslora": False,
    }
