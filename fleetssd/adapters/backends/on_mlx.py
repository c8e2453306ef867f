"""Unsloth over MLX: Apple Silicon. Its trainer is its own; callbacks, rows, checkpoints and adapter are ours."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fleetssd.adapters.backends import on_unsloth
from fleetssd.adapters.backends.job import Fitted, Job
from fleetssd.adapters.backends.rows import cannot_load
from fleetssd.adapters.backends.smoke import NextTokens, one_by_one
from fleetssd.errors import Misconfigured
from fleetssd.training import TrainPlan, accumulation, batch_order

_PACKAGES = ("unsloth", "unsloth_zoo", "mlx", "mlx_lm", "mlx_vlm", "transformers")


def prepare(plan: TrainPlan) -> Mapping[str, str]:
    """Import Unsloth's MLX side. Raises Misconfigured where the plan is for the GPU and MLX would use the CPU."""
    on_unsloth.load("mlx")
    import mlx.core  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    if plan.placement.kind == "metal" and not mlx.core.metal.is_available():
        raise Misconfigured("the plan is for Metal and MLX sees none", hint="A run never changes its device by itself.")
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def fit(job: Job) -> Fitted:
    """Load, wrap and train by Unsloth's MLX calls. Raises Misconfigured."""
    unsloth = on_unsloth.load("mlx")
    from datasets import Dataset  # noqa: PLC0415
    from unsloth_zoo.mlx import trainer as mlx_trainer  # noqa: PLC0415
    from unsloth_zoo.mlx.utils import save_lora_adapters  # noqa: PLC0415

    try:
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
            model_name=str(job.base),
            max_seq_length=job.max_length,
            dtype=job.plan.placement.dtype,
            load_in_4bit=job.plan.placement.qlora,
        )
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(error) from error
    model = unsloth.FastLanguageModel.get_peft_model(model, **on_unsloth.get_peft_model(job.plan))
    told = _arguments(job)
    trainer = mlx_trainer.MLXTrainer(
        model=model,
        tokenizer=tokenizer,
        train_dataset=Dataset.from_list(list(ordered(job))),
        args=mlx_trainer.MLXTrainingConfig(output_dir=str(job.checkpoints), **told),
        callbacks=[job.guard],
    )
    trainer.train(resume_from_checkpoint=str(job.resume) if job.resume else None)
    losses = tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    return Fitted(
        trainer.state.global_step,
        losses,
        lambda folder: save_lora_adapters(model, str(folder), adapter_format="peft"),
        told,
        _next_tokens(model),
    )


def _next_tokens(model: Any) -> NextTokens:
    import mlx.core as mx  # noqa: PLC0415

    scales = [(layer, layer.scale) for _, layer in model.named_modules() if "lora_a" in layer]

    def ask(ids: Sequence[int], with_adapter: bool) -> Any:
        model.eval()
        for layer, scale in scales:
            layer.scale = scale if with_adapter else 0.0
        said = model(mx.array([list(ids)]))
        logits = getattr(said, "logits", said)[0, -1].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits))

    return one_by_one(ask)


def ordered(job: Job) -> Iterator[dict[str, list[int]]]:
    """Yield every epoch's rows in our order, one after another, for a trainer that reads from front to back.

    That trainer cuts whole batches, so an epoch's short last step is filled with the epoch's first rows.
    """
    lora = job.plan.lora
    slots = job.steps // lora.epochs * accumulation(lora) * min(lora.micro_batch, lora.batch)
    lengths = [len(row["input_ids"]) for row in job.rows]
    for epoch in range(lora.epochs):
        order = batch_order(lengths, lora.batch, job.plan.seed, epoch)
        for slot in range(slots):
            yield job.rows[order[slot % len(order)]]


def _arguments(job: Job) -> dict[str, Any]:
    return {
        **job.arguments(),
        "optim": "adamw",
        "max_seq_length": job.max_length,
        "append_eos": False,  # the template ends the turn
        "dataset_order": "sequential",
    }
