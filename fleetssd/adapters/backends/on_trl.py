"""Plain TRL and PEFT: the CPU, and any accelerator that PyTorch knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleetssd.adapters.backends import sft
from fleetssd.adapters.backends.job import Fitted, Job
from fleetssd.adapters.backends.rows import cannot_load
from fleetssd.errors import Misconfigured
from fleetssd.training import TrainPlan


def prepare(plan: TrainPlan) -> Mapping[str, str]:
    """Import the stack and return its versions. Raises Misconfigured where the plan's device is not there."""
    libraries, kind = sft.load(plan.threads), plan.placement.kind
    torch = libraries.torch
    has = {"cuda": torch.cuda, "xpu": torch.xpu, "metal": torch.backends.mps}.get(kind)
    if has and not has.is_available():
        raise Misconfigured(
            f"the plan is for {kind} and PyTorch sees none",
            hint="Mend the driver; a run never changes its device by itself.",
        )
    return libraries.versions


def fit(job: Job) -> Fitted:
    """Load the base in the plan's dtype, seed, and let TRL wrap and train it. Raises Misconfigured."""
    libraries = sft.load(job.plan.threads)
    libraries.transformers.set_seed(job.plan.seed)
    options: dict[str, Any] = {"dtype": getattr(libraries.torch, job.plan.placement.dtype), "local_files_only": True}
    if job.plan.placement.qlora:
        options["quantization_config"] = libraries.transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
        )
    try:
        model = libraries.transformers.AutoModelForCausalLM.from_pretrained(job.base, **options)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(error) from error
    lora = job.plan.lora
    config = libraries.peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    return sft.fit(job, libraries, model, config)
