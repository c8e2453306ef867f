"""What `benchmarks/train_overhead.py` runs in processes of their own: both sides, and what they train on.

usage: python -m benchmarks.train_sides VERB PATH...  (make, count, bare, ours, own)
"""

# ruff: noqa: PLC0415  the training stack is loaded by the processes that train
from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.recipe import Lora
from fleetssd.training import Row, TrainPlan, decode_rows, steps

LORA = Lora(
    rank=16,
    alpha=16.0,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    learning_rate=1e-3,
    batch=8,
    micro_batch=8,
    epochs=1,
    warmup_steps=2,
    max_length=256,
)


def rows_of(count: int) -> list[Row]:
    """Return rows of words, of twenty lengths."""
    rng, words = random.Random(3), [f"word{number}" for number in range(200)]
    return [
        Row(" ".join(rng.choices(words, k=20)), " ".join(rng.choices(words, k=50 + number % 20)))
        for number in range(count)
    ]


def make_base(folder: Path, hidden: int, layers: int) -> None:
    """Write a random Qwen3 with a tokenizer of the rows' words and a chat template."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from fleetssd.toy.tokenizer import train_tokenizer

    torch.manual_seed(1)
    tokenizer = train_tokenizer(f"{row.prompt}\n{row.completion}" for row in rows_of(400))
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=hidden // 8, max_position_embeddings=512,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bare(base: Path, rows: Path, out: Path) -> None:
    """Train as a script of thirty lines would: rows in order, TRL's own everything, no checkpoint."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    class Told(transformers.TrainerCallback):
        def on_log(self, args: object, state: object, control: object, logs: dict[str, Any], **_: object) -> None:
            if "loss" in logs:  # and not the summary at the end
                say("step")

    torch.set_num_threads(1)
    transformers.set_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    pairs = [json.loads(line) for line in rows.read_text().splitlines()]
    talk = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "completion": [{"role": "assistant", "content": pair["completion"]}],
        }
        for pair in pairs
    ]
    settings = trl.SFTConfig(
        output_dir=str(out), per_device_train_batch_size=LORA.micro_batch,
        gradient_accumulation_steps=LORA.batch // LORA.micro_batch, max_steps=steps(len(talk), LORA),
        learning_rate=LORA.learning_rate, lr_scheduler_type="cosine", warmup_steps=LORA.warmup_steps, weight_decay=0.0,
        optim="adamw_torch", adam_beta2=0.95, max_length=LORA.max_length, packing=False, use_cpu=True, bf16=False,
        gradient_checkpointing=False, seed=1, data_seed=1, logging_steps=1, report_to="none", disable_tqdm=True,
        save_strategy="no", completion_only_loss=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    config = peft.LoraConfig(
        r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=list(LORA.targets), task_type="CAUSAL_LM"
    )
    trainer = trl.SFTTrainer(
        model=model, args=settings, processing_class=tokenizer, peft_config=config,
        train_dataset=datasets.Dataset.from_list(talk), callbacks=[Told()],
    )  # fmt: skip
    trainer.train()
    trainer.model.save_pretrained(out / "adapter")
    say("adapter", digest=hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest())


def ours(plan: Path, base: Path, rows: Path, out: Path) -> None:
    """Train as a night does: walls, digests, checkpoints, acceptance. A night is up already, so it waits here."""
    job = TrainPlan.from_json(json.loads(plan.read_text()))
    trainer, told = ProcessTrainer(), lambda _step, total, _what: say("step") if total else None
    say("ready", cpu=time.process_time())
    os.kill(os.getpid(), signal.SIGSTOP)
    began = time.process_time()
    result = trainer.train(job, rows, base, out, told)
    say("adapter", digest=result.adapter_digest, parent=time.process_time() - began)


def own(plan: Path, base: Path, rows: Path, out: Path) -> None:
    """Train once with a stopwatch around what is not ours; what is left of the processor's time is ours.

    TRL tokenises too, so tokenising is not ours; what the trained model is asked for its witness is.
    """
    from fleetssd.adapters import backends
    from fleetssd.adapters.backends import on_trl

    watches = {"theirs": 0.0, "tokenising": 0.0, "asking": 0.0, "callbacks": 0.0}
    guard, prepare, load, fit = backends.guard, on_trl.prepare, backends.load_tokenizer, on_trl.fit

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                watches[name] += time.thread_time() - began

        return timed

    def watched_guard(*arguments: Any) -> Any:
        made = guard(*arguments)
        for name in ("on_step_end", "on_log", "on_save"):
            setattr(made, name, watched("callbacks", getattr(made, name)))
        return made

    def watched_tokenizer(*arguments: Any) -> Any:
        made = watched("theirs", load)(*arguments)
        made.apply_chat_template = watched("tokenising", made.apply_chat_template)
        return made

    def watched_fit(*arguments: Any) -> Any:
        fitted = watched("theirs", fit)(*arguments)
        return replace(fitted, next_tokens=watched("asking", fitted.next_tokens))

    job = TrainPlan.from_json(json.loads(plan.read_text()))
    out.mkdir()
    on_trl.prepare, on_trl.fit = watched("theirs", prepare), watched_fit
    backends.load_tokenizer, backends.guard = watched_tokenizer, watched_guard
    began = time.thread_time()
    hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    text = rows.read_bytes()
    result = backends.train(
        job, decode_rows(text), base=base, out=out, on_step=lambda *_: say("step"), stopped=lambda: False
    )
    spent = time.thread_time() - began
    say(
        "own", step=watches["callbacks"] / result.steps, job=spent - watches["theirs"] - watches["tokenising"],
        asking=watches["asking"], tokenising=watches["tokenising"],
    )  # fmt: skip


def say(event: str, **more: Any) -> None:
    """Print an event, one JSON line."""
    print(json.dumps({"event": event, **more}), flush=True)


def count(base: Path, rows: Path) -> None:
    """Say the rows' lengths as the trainer counts them."""
    import transformers

    from fleetssd.adapters.backends.rows import encode

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    encoded = encode(tokenizer, decode_rows(rows.read_bytes()), LORA.max_length, 512)
    say("lengths", tokens=[len(row["input_ids"]) for row in encoded.rows])


def main() -> None:
    """Do one verb."""
    verb, *given = sys.argv[1:]
    if verb == "make":
        return make_base(Path(given[0]), int(given[1]), int(given[2]))
    verbs: dict[str, Callable[..., None]] = {"bare": bare, "ours": ours, "own": own, "count": count}
    return verbs[verb](*map(Path, given))


if __name__ == "__main__":
    main()
