"""LoRA training with TRL and PEFT on the CPU. Only the trainer process loads this.

Four traps are shut here: TRL is pinned below the release whose loss needs a GPU kernel; OpenMP threads must not spin
(the parent sets OMP_WAIT_POLICY); a NaN loss must not be logged as zero; and LoRA's weights are drawn when the trainer
is built, so the seed is set before that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetssd.errors import Corrupt, Misconfigured, Rejected, Transient
from fleetssd.training import Row, TrainPlan, TrainResult, accumulation, batch_order, steps

Step = Callable[[int, int, float], None]
"""Called after every optimiser step with (step, steps, loss)."""

SAVE_STEPS = 50
"""A kill loses at most so many steps; a checkpoint is the adapter and its optimiser state, three times its size."""

_WHOLE = "whole"
"""The marker written into a checkpoint once everything in it is on disk."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as token ids with labels (-100 on the prompt), and how many did not fit."""

    rows: tuple[dict[str, list[int]], ...]
    too_long: int

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of one epoch."""
        return sum(len(row["input_ids"]) for row in self.rows)


def train(
    plan: TrainPlan, rows: Sequence[Row], *, base: Path, out: Path, on_step: Step, stopped: Callable[[], bool]
) -> TrainResult:
    """Train one LoRA into `out/adapter`, resuming from the newest whole checkpoint in `out/checkpoints`.

    Raises Transient where `stopped` became true (a checkpoint is kept), Rejected where the loss left the numbers or
    no row fits, Corrupt where the template breaks the prompt, Misconfigured where the base cannot be read.
    """
    started = time.monotonic()
    torch, transformers, peft, trl, datasets = _imports(plan.threads)
    transformers.set_seed(plan.seed)
    tokenizer, model = _load(transformers, torch, base)
    encoded = encode(tokenizer, rows, plan.lora.max_length)
    if not encoded.rows:
        raise Rejected(
            f"no row fits: {encoded.too_long} of {len(rows)} are longer than {plan.lora.max_length} tokens",
            hint="Raise recipe.max_length or look at the records.",
        )
    total = steps(len(encoded.rows), plan.lora)
    trainer = _trainer_class(trl, torch, plan, encoded)(
        model=model,
        args=trl.SFTConfig(**_arguments(plan, total, out / "checkpoints")),
        processing_class=tokenizer,
        peft_config=_lora_config(peft, plan),
        train_dataset=datasets.Dataset.from_list(list(encoded.rows)),
        callbacks=[_guard(transformers.TrainerCallback, on_step, stopped)],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train(resume_from_checkpoint=newest_checkpoint(out / "checkpoints"))
    if trainer.state.global_step < total:
        raise Transient(
            f"training was stopped after step {trainer.state.global_step} of {total}",
            hint="Start it again: it resumes from its checkpoint.",
        )
    digest = _publish(trainer.model, out)
    return TrainResult(
        adapter_digest=digest,
        base_digest=plan.base_digest,
        rows_digest=plan.rows_digest,
        rows_used=len(encoded.rows),
        rows_too_long=encoded.too_long,
        steps=total,
        tokens=encoded.tokens * plan.lora.epochs,
        losses=tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry),
        seconds=round(time.monotonic() - started, 3),
        peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        backend="trl-cpu",
        versions={module.__name__: module.__version__ for module in (torch, transformers, peft, trl, datasets)},
    )


def encode(tokenizer: Any, rows: Iterable[Row], max_length: int) -> Encoded:
    """Render each row through the chat template; rows above `max_length` tokens are left out and counted.

    A cut completion would teach the model never to stop. Raises Corrupt where the rendered prompt is not a token
    prefix of prompt and completion: the labels would be shifted.
    """
    kept, too_long = [], 0
    for row in rows:
        question = [{"role": "user", "content": row.prompt}]
        answer = {"role": "assistant", "content": row.completion}
        prompt = _ids(tokenizer, question, add_generation_prompt=True)
        whole = _ids(tokenizer, [*question, answer])
        if whole[: len(prompt)] != prompt or tokenizer.eos_token_id not in whole[len(prompt) :]:
            raise Corrupt(
                "the chat template does not render the prompt as a prefix, or does not end the answer's turn",
                hint="Use a base whose template keeps the prompt and whose eos token ends the assistant's turn.",
            )
        if len(whole) > max_length:
            too_long += 1
            continue
        kept.append({"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]})
    return Encoded(rows=tuple(kept), too_long=too_long)


def newest_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint; torn ones, left by a kill, are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / _WHOLE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return str(newest) if newest else None


def _imports(threads: int) -> tuple[Any, Any, Any, Any, Any]:
    try:
        import datasets  # noqa: PLC0415  heavy: only a training run may pay for them
        import peft  # noqa: PLC0415
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415
        import trl  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(f"training needs {error.name}", hint="pip install 'fleetssd[train]'") from None
    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers, peft, trl, datasets


def _load(transformers: Any, torch: Any, base: Path) -> tuple[Any, Any]:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise Misconfigured(
            f"cannot load the base: {str(error).splitlines()[0]}",
            hint="base.weights names a folder with config.json, safetensors and a tokenizer.",
        ) from error
    return tokenizer, model


def _arguments(plan: TrainPlan, total: int, checkpoints: Path) -> dict[str, Any]:
    lora = plan.lora
    return {
        "output_dir": str(checkpoints),
        "max_steps": total,
        "per_device_train_batch_size": min(lora.micro_batch, lora.batch),
        "gradient_accumulation_steps": accumulation(lora),
        "learning_rate": lora.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": lora.warmup_steps,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "adam_beta2": 0.95,  # .999 would average the squares over more steps than a night has
        "max_length": lora.max_length,
        "packing": False,
        "use_cpu": True,
        "bf16": False,  # TRL turns it on where it is not told
        "gradient_checkpointing": False,
        "seed": plan.seed,
        "data_seed": plan.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log a NaN as 0.0
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,  # the older one goes before the newer one is marked whole
    }


def _trainer_class(trl: Any, torch: Any, plan: TrainPlan, encoded: Encoded) -> Any:
    """Build TRL's trainer with our order of rows; accelerate tells the sampler the epoch, after a resume too."""
    lengths = [len(row["input_ids"]) for row in encoded.rows]

    class Order(torch.utils.data.Sampler):  # type: ignore[misc]
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter(batch_order(lengths, plan.lora.batch, plan.seed, self.epoch))

        def __len__(self) -> int:
            return len(lengths)

    class Trainer(trl.SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Order:
            return Order()

    return Trainer


def _lora_config(peft: Any, plan: TrainPlan) -> Any:
    return peft.LoraConfig(
        r=plan.lora.rank,
        lora_alpha=plan.lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(plan.lora.targets),
        task_type="CAUSAL_LM",
    )


def _guard(callback: type[Any], on_step: Step, stopped: Callable[[], bool]) -> Any:
    """Build the callback that reports steps, stops on request and ends a run whose loss is no number."""

    class Guard(callback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stopped() and state.global_step < state.max_steps:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            values = [float(logs[key]) for key in ("loss", "grad_norm") if logs and key in logs]
            if not all(math.isfinite(value) for value in values):
                raise Rejected(
                    f"the loss or its gradient became NaN or infinite at step {state.global_step}",
                    hint="Lower recipe.learning_rate; check the base's weights.",
                )
            if values:
                on_step(state.global_step, state.max_steps, values[0])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            _sync(folder)
            _write(folder / _WHOLE, b"")

    return Guard()


def _ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    return list(rendered["input_ids"])


def _publish(model: Any, out: Path) -> str:
    """Save the adapter with stable bytes and free of local paths, rename it into place, return its sha256 (hex)."""
    temporary, final = out / "adapter.tmp", out / "adapter"
    for folder in (temporary, final):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(temporary)
    (temporary / "README.md").unlink(missing_ok=True)
    config = json.loads((temporary / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set: its order is the hash seed's
    config["base_model_name_or_path"] = None
    _write(temporary / "adapter_config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    weights = temporary / "adapter_model.safetensors"
    weights.chmod(0o644)
    _sync(temporary)
    temporary.rename(final)
    return hashlib.sha256((final / weights.name).read_bytes()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
