"""Times our trainer, from plan to accepted adapter, against a bare TRL script that makes the same updates.

Both train the same random Qwen3 on the same rows in the same order, in processes of their own, in turn; that the
adapters are equal byte for byte shows that the updates were the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.adapters.trainer_process.child import environment
from fleetssd.recipe import Lora
from fleetssd.training import Row, TrainPlan, batch_order, encode_rows, sha256, steps, weights_digest

GOAL = 1.03
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


@dataclass
class Timed:
    """One run: wall seconds in all, to the first step, and the median of a step."""

    seconds: float
    first: float
    step: float
    digest: str


@dataclass
class Watch:
    """Notes when each step was told."""

    began: float = field(default_factory=time.perf_counter)
    told: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Note a step."""
        self.told.append(time.perf_counter() - self.began)

    def done(self, digest: str) -> Timed:
        """Return the run."""
        gaps = [later - sooner for sooner, later in zip(self.told, self.told[1:], strict=False)]
        return Timed(time.perf_counter() - self.began, self.told[0], statistics.median(gaps), digest)


def rows_of(count: int) -> list[Row]:
    """Return rows of words, of two lengths."""
    rng, words = random.Random(3), [f"word{number}" for number in range(200)]
    return [
        Row(" ".join(rng.choices(words, k=20)), " ".join(rng.choices(words, k=60 + count % 2))) for _ in range(count)
    ]


def make_base(folder: Path, hidden: int, layers: int) -> None:
    """Write a random Qwen3 with a tokenizer of the rows' words and a chat template."""
    import torch  # noqa: PLC0415  only children load torch
    from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: PLC0415

    from fleetssd.toy.tokenizer import train_tokenizer  # noqa: PLC0415

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
    import datasets  # noqa: PLC0415
    import peft  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    import trl  # noqa: PLC0415

    class Told(transformers.TrainerCallback):
        def on_log(self, args: object, state: object, control: object, **_: object) -> None:
            print("step", flush=True)

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


def child(verb: str, *arguments: Path | int, home: Path) -> subprocess.Popen[str]:
    """Start this script's verb with the trainer's own environment."""
    command = [sys.executable, str(Path(__file__).resolve()), verb, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment(home, 1), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def run_ours(plan: TrainPlan, base: Path, rows: Path, out: Path) -> Timed:
    """Time our trainer: plan, walls, digests, training, checkpoints, acceptance."""
    watch = Watch()
    result = ProcessTrainer().train(plan, rows, base, out, lambda _step, total, _what: watch.step() if total else None)
    return watch.done(result.adapter_digest)


def run_bare(base: Path, rows: Path, out: Path) -> Timed:
    """Time the bare script, from its start to its end."""
    watch = Watch()
    out.mkdir()
    with child("bare", base, rows, out, home=out) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "step":
                watch.step()
    assert process.returncode == 0, "the bare script failed"
    return watch.done(hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest())


def compare(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Make base and rows, run both in turn, and return the claim."""
    base, rows = scratch / "base", scratch / "rows.jsonl"
    with child("make", base, options.hidden, options.layers, home=scratch) as process:
        assert process.wait() == 0, "no base was made"
    made = rows_of(options.steps * LORA.batch)
    rows.write_bytes(encode_rows(made))
    weights = weights_digest({path.name: sha256(path.read_bytes()) for path in base.glob("*.safetensors")})
    plan = TrainPlan(1, weights, sha256(rows.read_bytes()), len(made), LORA, seed=1, threads=1)
    ordered = scratch / "ordered.jsonl"
    ordered.write_bytes(encode_rows([made[at] for at in batch_order(lengths(base, made, scratch), LORA.batch, 1, 0)]))
    ours, theirs = [], []
    for number in range(options.rounds):
        theirs.append(run_bare(base, ordered, scratch / f"bare{number}"))
        ours.append(run_ours(plan, base, rows, scratch / f"ours{number}"))
        for name, run in (("bare", theirs[-1]), ("ours", ours[-1])):
            first = f"first step after {run.first:.1f} s"
            print(f"{name}: {run.seconds:.1f} s, a step {run.step:.2f} s, {first}, load {os.getloadavg()[0]:.1f}")
    mine, peer = (statistics.median(run.seconds for run in runs) for runs in (ours, theirs))
    same = {run.digest for run in ours} == {run.digest for run in theirs}
    step = statistics.median(run.step for run in theirs)
    return {
        "claim": "our trainer's wall over a bare TRL script with the same updates",
        "value": round(mine / peer, 4),
        "goal": GOAL,
        "holds": same and mine / peer <= GOAL and peer >= 120 and step >= 0.3,
        "peer": {"name": "bare TRL", "value": round(peer, 1)},
        "same_adapter": same,
        "step_seconds": round(step, 3),
        "steps": options.steps,
        "first_step_seconds": round(statistics.median(run.first for run in ours), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def lengths(base: Path, rows: list[Row], home: Path) -> list[int]:
    """Return the rows' lengths in tokens, counted by a child: the order of rows follows from them."""
    (home / "count.jsonl").write_bytes(encode_rows(rows))
    with child("count", base, home / "count.jsonl", home=home) as process:
        assert process.stdout is not None
        counts: list[int] = json.loads(process.stdout.read().splitlines()[-1])
    return counts


def count(base: Path, rows: Path) -> None:
    """Print the lengths as the trainer counts them."""
    import transformers  # noqa: PLC0415

    from fleetssd.adapters.backends.rows import encode  # noqa: PLC0415
    from fleetssd.training import decode_rows  # noqa: PLC0415

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    encoded = encode(tokenizer, decode_rows(rows.read_bytes()), LORA.max_length, 512)
    print(json.dumps([len(row["input_ids"]) for row in encoded.rows]))


def main() -> None:
    """Compare, and print the claim as one JSON object, last; the verbs are for this script's own children."""
    verb, *given = [*sys.argv[1:], ""]
    if verb == "make":
        return make_base(Path(given[0]), int(given[1]), int(given[2]))
    if verb == "bare":
        return bare(Path(given[0]), Path(given[1]), Path(given[2]))
    if verb == "count":
        return count(Path(given[0]), Path(given[1]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a run (default 400)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (default 2)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model (default 256)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the model (default 8)")
    parser.add_argument("--short", action="store_true", help="a few small steps, to see that it runs")
    options = parser.parse_args()
    if options.short:
        options.steps, options.rounds, options.hidden, options.layers = 12, 1, 64, 2
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options, Path(folder))))
    return None


if __name__ == "__main__":
    main()
