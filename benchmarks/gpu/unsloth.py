"""Trains a Qwen3-4B-shaped random model with Unsloth and with plain TRL on one GPU, in bfloat16 and over 4-bit weights.

Prints tokens a second, MFU and peak memory of each, then converts Unsloth's adapter and has llama.cpp answer with it.
Random weights train at the speed of real ones. MFU counts 4 FLOP a value and token: forward and the gradient of the
activations; frozen weights have none of their own, and what checkpointing computes twice is not useful work.

It needs one CUDA device with 40 GB, 40 GB of memory, 25 GB of disk (`--dir`), a C compiler for Triton, and a Python
with a CUDA build of torch and `fleetssd[unsloth,demo]` (unsloth, unsloth_zoo, bitsandbytes, triton, xllamacpp, gguf).
It needs no network: it downloads nothing and makes its own model. By arithmetic, not yet by a run, four cases of 200
steps take an H100 about ten minutes, three of them for making the model; where a command may take no longer, run it
twice:

    python benchmarks/gpu/unsloth.py --bits 16
    python benchmarks/gpu/unsloth.py --bits 4
    python benchmarks/gpu/unsloth.py --dry-run      # a tiny model on the CPU
"""

# ruff: noqa: PLC0415  the training stack is loaded by the processes that train
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this file's folder would make `import unsloth` find this file

from fleetssd.adapters.gguf_builder import GgufBuilder  # noqa: E402
from fleetssd.adapters.trainer_process.child import environment  # noqa: E402
from fleetssd.placement import Placement  # noqa: E402
from fleetssd.recipe import Lora  # noqa: E402
from fleetssd.training import Row, TrainPlan, encode_rows  # noqa: E402
from tests.e2e import tiny  # noqa: E402

GOAL = 1.2
WARM = 10
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bfloat16 FLOP a second, by what a device's name contains; makers' data sheets."""
SHAPE = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
}  # fmt: skip
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024,
}  # fmt: skip


def main() -> int:
    """Run every case in a process of its own and print the claim as one JSON object, last."""
    arguments = parser().parse_args()
    if arguments.one:
        return one(arguments.one, arguments.base)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        folder = Path(name)
        base = make_base(folder, SMALL if arguments.dry_run else SHAPE)
        rows = make_rows(arguments)
        wanted = cases(arguments.bits, dry=arguments.dry_run)
        done = {case: measure(folder, base, rows, case, arguments) for case in wanted}
        proves = serve(folder, base, done)
    report(done, proves, arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps a case (default 200)")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens a row, about (default 1024)")
    parser.add_argument("--batch", type=int, default=4, help="rows a step, at once (default 4)")
    parser.add_argument(
        "--peak-tflops", type=float, help="the device's dense bfloat16 peak, where it is not known here"
    )
    parser.add_argument(
        "--bits", type=int, nargs="+", choices=(16, 4), default=(16, 4), help="width of the base's weights"
    )
    parser.add_argument("--dir", type=Path, help="where 25 GB of scratch may lie (default: the temporary folder)")
    parser.add_argument(
        "--dry-run", action="store_true", help="a tiny model on the CPU: proves the script, not the claim"
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    return parser


def cases(bits: Sequence[int], *, dry: bool) -> list[tuple[str, str, bool]]:
    """Return (backend, device, 4-bit), the peer first."""
    if dry:
        return [("trl", "cpu", False), ("unsloth", "cpu", False)]
    return [(backend, "cuda", qlora) for qlora in (n == 4 for n in bits) for backend in ("trl", "unsloth")]


def make_base(folder: Path, shape: dict[str, int]) -> tiny.Tiny:
    """Write a random Qwen3 of this shape, as a folder of Hugging Face and as a Q8_0 GGUF."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from fleetssd.toy.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(f"{row.prompt}\n{row.completion}" for row in tiny.ROWS)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(**shape, **ends, max_position_embeddings=8192, tie_word_embeddings=True)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # four billion normal numbers take a CPU minutes
        model = Qwen3ForCausalLM(config).to(torch.bfloat16).cpu()
    torch.cuda.empty_cache()
    base = tiny.Tiny(folder / "hf", folder / "f32.gguf", folder / "q8_0.gguf")
    model.save_pretrained(base.hf)
    tokenizer.save_pretrained(base.hf)
    tiny.write_gguf(model, Padded(tokenizer, shape["vocab_size"]), base.q8_0, "qwen3", quantised=True)
    return base


class Padded:
    """A small tokenizer that names every id of a large embedding, as a GGUF must."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer, self.size, self.backend_tokenizer = tokenizer, size, self

    def __getattr__(self, name: str) -> Any:
        """Be the tokenizer in everything else."""
        return getattr(self.tokenizer, name)

    def to_str(self) -> str:
        """Return its description with the unused ids named."""
        table = json.loads(self.tokenizer.backend_tokenizer.to_str())
        known = set(table["model"]["vocab"].values())
        table["model"]["vocab"] |= {f"<unused {n}>": n for n in range(self.size) if n not in known}
        return json.dumps(table)


def make_rows(arguments: argparse.Namespace) -> list[Row]:
    """Return rows for every step, a prompt a tenth as long as its completion."""
    words = [row.completion.replace("\n", " ") for row in tiny.ROWS]
    drawn = random.Random(0)
    count, length = arguments.batch * (12 if arguments.dry_run else arguments.steps), arguments.tokens // 12
    if arguments.dry_run:
        length = 4
    return [
        Row(" ".join(drawn.choices(words, k=max(1, length // 10))), " ".join(drawn.choices(words, k=length)))
        for _ in range(count)
    ]


def measure(
    folder: Path, base: tiny.Tiny, rows: list[Row], case: tuple[str, str, bool], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one case in a child and return what it measured."""
    backend, device, qlora = case
    job = folder / f"{backend}-{'4bit' if qlora else 'bf16'}"
    job.mkdir()
    lora = Lora(32, 32.0, tiny.TARGETS, 5e-5, arguments.batch, arguments.batch, 1, 2, 0)
    dtype = "float32" if device == "cpu" else "bfloat16"
    placement = Placement(backend, device, dtype, qlora)  # type: ignore[arg-type]
    plan = dataclasses.replace(tiny.plan_for(base.hf, rows, lora), placement=placement)
    (job / "plan.json").write_text(json.dumps(plan.to_json()))
    (job / "rows.jsonl").write_bytes(encode_rows(rows))
    surroundings = environment(job, os.cpu_count() or 1, placement) | {"PYTHONSAFEPATH": "1"}
    surroundings |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    command = [sys.executable, __file__, "--one", str(job), "--base", str(base.hf)]
    done = subprocess.run(command, cwd=job, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{job.name}: {found['tokens_a_second']:.0f} tokens/s, peak {found['peak_gb']:.2f} GB, {found['device']}")
    return found | {"job": job}


def one(job: Path, base: Path) -> int:
    """Be one case: train, and print tokens a second after the warm-up, peak memory and the loss."""
    from fleetssd.adapters import backends

    plan = TrainPlan.from_json(json.loads((job / "plan.json").read_text()))
    rows = [Row(**json.loads(line)) for line in (job / "rows.jsonl").read_text().splitlines()]
    times: list[float] = []
    result = backends.train(
        plan, rows, base=base, out=job, on_step=lambda *_: times.append(time.perf_counter()), stopped=lambda: False
    )
    import torch

    on_gpu = plan.placement.kind != "cpu"
    warm = min(WARM, len(times) - 2)
    steps = len(times) - 1 - warm
    found = {
        "tokens_a_second": result.tokens / result.steps * steps / (times[-1] - times[warm]),
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else result.peak_rss_mb / 1e3,
        "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
        "losses": [result.losses[0], result.losses[-1]],
        "steps": result.steps,
    }
    print(json.dumps(found))
    return 0


def serve(folder: Path, base: tiny.Tiny, done: dict[tuple[str, str, bool], dict[str, Any]]) -> bool:
    """Convert every adapter of Unsloth's and have llama.cpp answer with it beside the base."""
    answered = []
    for case, found in done.items():
        if case[0] == "unsloth":
            gguf = folder / f"{found['job'].name}.gguf"
            GgufBuilder().adapter(found["job"] / "adapter", base.q8_0, gguf, "F16")
            request = {"prompt": tiny.prompts(base, 1)[0], "temperature": 0.0, "n_predict": 4}
            answered.append(bool(tiny.llama_answers(base.q8_0, [request], gguf)[0]))
    return bool(answered) and all(answered)


def report(done: dict[tuple[str, str, bool], dict[str, Any]], proves: bool, arguments: argparse.Namespace) -> None:
    """Print ratios and MFU, and the claim."""
    values = 4.02e9
    name = next(iter(done.values()))["device"]
    known = next((peak for part, peak in PEAKS.items() if part in name), None)
    peak = arguments.peak_tflops * 1e12 if arguments.peak_tflops else known
    ratios = {}
    for (backend, device, qlora), found in done.items():
        speed = found["tokens_a_second"]
        bits = "4-bit" if qlora else "16-bit"
        if peak and not arguments.dry_run:
            print(f"{backend} {bits}: MFU {4 * values * speed / peak:.1%}, loss {found['losses']}")
        if backend == "unsloth":
            ratios[bits] = speed / done["trl", device, qlora]["tokens_a_second"]
    result = {
        "claim": "tokens a second of Unsloth over plain TRL, on one device",
        "value": {bits: round(ratio, 3) for bits, ratio in ratios.items()},
        "goal": GOAL,
        "holds": proves and not arguments.dry_run and min(ratios.values()) >= GOAL,
        "adapter_converts_and_is_served": proves,
        "dry_run": arguments.dry_run,
    }
    print(json.dumps(result | {"peer": {"name": "TRL without Unsloth", "device": name}}))


if __name__ == "__main__":
    sys.exit(main())
