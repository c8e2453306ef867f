"""TRL's trainer under our settings and our order of rows: what plain TRL and Unsloth's PyTorch side share.

Four traps are shut here: TRL is pinned below the release whose loss needs a GPU kernel; OpenMP threads must not spin
(the parent sets OMP_WAIT_POLICY); a NaN loss must not be logged as zero; and LoRA's weights are drawn when the model is
wrapped, so the seed is set before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleetssd.adapters.backends.asking import batched, plainly
from fleetssd.adapters.backends.job import Fitted, Job
from fleetssd.errors import Misconfigured
from fleetssd.training import batch_order

_TORCH_NAMES = {"metal": "mps"}


@dataclass(frozen=True, slots=True)
class Libraries:
    """The imported training stack."""

    torch: Any
    transformers: Any
    peft: Any
    trl: Any
    datasets: Any

    @property
    def versions(self) -> dict[str, str]:
        """Version by name."""
        return {
            module.__name__: module.__version__
            for module in (self.torch, self.transformers, self.peft, self.trl, self.datasets)
        }


def load(threads: int) -> Libraries:
    """Import the training stack. Raises Misconfigured where it is not installed."""
    try:
        import datasets  # noqa: PLC0415  heavy: only a training run may pay for them
        import peft  # noqa: PLC0415
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415
        import trl  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(f"training needs {error.name}", hint="pip install 'fleetssd[train]'") from None
    trl.SFTTrainer  # noqa: B018  the libraries load by attribute: all of it now, while nothing is collected
    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    return Libraries(torch, transformers, peft, trl, datasets)


def fit(job: Job, libraries: Libraries, model: Any, peft_config: Any = None) -> Fitted:
    """Train a loaded model; with `peft_config` TRL wraps it first, else it is wrapped already.

    Raises Misconfigured where the trainer took another device than the plan's.
    """
    told = _arguments(job)
    trainer = _trainer_class(libraries, job)(
        model=model,
        args=libraries.trl.SFTConfig(output_dir=str(job.checkpoints), **told),
        processing_class=job.tokenizer,
        peft_config=peft_config,
        train_dataset=libraries.datasets.Dataset.from_list(list(job.rows)),
        callbacks=[job.guard],
    )
    kind = job.plan.placement.kind
    if trainer.args.device.type != _TORCH_NAMES.get(kind, kind):
        raise Misconfigured(
            f"the plan is for {kind} and PyTorch took {trainer.args.device.type}",
            hint="Mend the driver; a run never changes its device by itself.",
        )
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # TRL narrows them over a 4-bit base; Adam's small steps would be lost
            weight.data = weight.data.float()
    trainer.remove_callback(libraries.transformers.trainer_callback.PrinterCallback)
    trainer.train(resume_from_checkpoint=str(job.resume) if job.resume else None)
    losses = tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    ask = batched if job.plan.placement.backend == "trl" else plainly  # Unsloth's kernels have caches of their own
    next_tokens = ask(libraries.torch, trainer.model)
    return Fitted(trainer.state.global_step, losses, trainer.model.save_pretrained, told, next_tokens)


def _arguments(job: Job) -> dict[str, Any]:
    placement = job.plan.placement
    return {
        **job.arguments(),
        "optim": "adamw_torch",
        "max_length": job.max_length,
        "use_cpu": placement.kind == "cpu",
        "bf16": placement.dtype == "bfloat16",  # TRL turns it on where it is not told
        "fp16": placement.dtype == "float16",
        "data_seed": job.plan.seed,
        "logging_nan_inf_filter": False,  # it would log a NaN as 0.0
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
    }


def _trainer_class(libraries: Libraries, job: Job) -> Any:
    """Build TRL's trainer with our order of rows; accelerate tells the sampler the epoch, after a resume too."""
    lengths = [len(row["input_ids"]) for row in job.rows]

    class Order(libraries.torch.utils.data.Sampler):  # type: ignore[misc,name-defined]
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter(batch_order(lengths, job.plan.lora.batch, job.plan.seed, self.epoch))

        def __len__(self) -> int:
            return len(lengths)

    class Trainer(libraries.trl.SFTTrainer):  # type: ignore[misc,name-defined]
        def _get_train_sampler(self, train_dataset: Any = None) -> Order:
            return Order()

    return Trainer
