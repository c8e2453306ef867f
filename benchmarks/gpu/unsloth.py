"""Trains a Qwen3-4B-shaped random model with Unsloth and with plain TRL on one GPU, in bfloat16 and over 4-bit weights.

Prints tokens a second, MFU and peak memory of each, then converts Unsloth's adapter and has llama.cpp answer with it.
Random weights train at the speed of real ones. MFU counts 4 FLOP a value and token: forward and the gradient of the
activations; frozen weights have none of their own, and what checkpointing computes twice is not useful work. Every case
tells its tokens a second every 15 seconds; one that fails or takes too long costs the others nothing.

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
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this file's folder would make `import unsloth` find this file

from fleetssd.adapters.backends import peak_rss  # noqa: E402
from fleetssd.adapters.backends.rows import context, encode  # noqa: E402
from fleetssd.adapters.gguf_builder import GgufBuilder  # noqa: E402
from fleetssd.adapters.trainer_process.child import environment  # noqa: E402
from fleetssd.placement import Placement  # noqa: E402
from fleetssd.recipe import Lora  # noqa: E402
from fleetssd.training import Row, TrainPlan, decode_rows, encode_rows, steps  # noqa: E402
from tests.e2e import tiny  # noqa: E402

GOAL = 1.2
WARM = 10
TELL = 15.0
VALUES = 4.02e9
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


Case: TypeAlias = tuple[str, str, bool]
"""Backend, device, and whether the base is held in 4 bits."""


def main() -> int:
    """Run every case in a process of its own, say what each found, and print the claim as one JSON object, last.

    A case that fails, or takes too long, costs the others nothing.
    """
    arguments = parser().parse_args()
    if arguments.one:
        return one(arguments.one, arguments.base, arguments.tokens_a_step)
    done: dict[Case, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        folder, began = Path(name), time.monotonic()
        base = make_base(folder, SMALL if arguments.dry_run else SHAPE)
        rows = make_rows(arguments)
        say(f"a base was made in {time.monotonic() - began:.0f} s")
        for case in cases(arguments.bits, dry=arguments.dry_run):
            found = measure(folder, base, rows, case, arguments)
            if case[0] == "unsloth" and "adapter" in found:
                found |= served(folder, base, found["job"])
            done[case] = found | {"mfu": mfu(found, arguments)}
            print(line(case, done[case]), flush=True)
    report(done, arguments)
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
    parser.add_argument("--minutes", type=float, default=4.0, help="a case may take, its start too (default 4)")
    parser.add_argument("--dir", type=Path, help="where 25 GB of scratch may lie (default: the temporary folder)")
    parser.add_argument(
        "--dry-run", action="store_true", help="a tiny model on the CPU: proves the script, not the claim"
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens-a-step", type=float, help=argparse.SUPPRESS)
    return parser


def cases(bits: Sequence[int], *, dry: bool) -> list[Case]:
    """Return what is measured, the peer first."""
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
    folder: Path, base: tiny.Tiny, rows: list[Row], case: Case, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one case in a child and return what it told last: all of it, or how far it came until the limit."""
    backend, device, qlora = case
    job = folder / named(case)
    job.mkdir()
    lora = Lora(32, 32.0, tiny.TARGETS, 5e-5, arguments.batch, arguments.batch, 1, 2, 0)
    dtype = "float32" if device == "cpu" else "bfloat16"
    placement = Placement(backend, device, dtype, qlora)  # type: ignore[arg-type]
    plan = dataclasses.replace(tiny.plan_for(base.hf, rows, lora), placement=placement)
    (job / "plan.json").write_text(json.dumps(plan.to_json()))
    (job / "rows.jsonl").write_bytes(encode_rows(rows))
    surroundings = environment(job, os.cpu_count() or 1, placement) | {"PYTHONSAFEPATH": "1"}
    surroundings |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    tokens = tokens_a_step(base.hf, rows, lora)
    command = [sys.executable, __file__, "--one", str(job), "--base", str(base.hf), "--tokens-a-step", str(tokens)]
    found: dict[str, Any] = {"job": job}
    with (job / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=job, env=surroundings, stdout=subprocess.PIPE, stderr=log, text=True)
    killer = threading.Timer(60 * arguments.minutes, child.kill)
    killer.start()
    assert child.stdout is not None
    for told in child.stdout:
        if told.startswith('{"tokens_a_second"'):
            found |= json.loads(told)
            say(f"{job.name}: step {found['steps']}, {found['tokens_a_second']:.0f} tokens/s")
    killer.cancel()
    if child.wait():
        found["failed"] = (
            " ".join((job / "log").read_text().strip().splitlines()[-1:]) or f"exit code {child.returncode}"
        )
    return found


def one(job: Path, base: Path, tokens: float) -> int:
    """Be one case of so many tokens a step: train, and tell how fast after the warm-up, now and then and at the end."""
    from fleetssd.adapters import backends

    plan = TrainPlan.from_json(json.loads((job / "plan.json").read_text()))
    rows = decode_rows((job / "rows.jsonl").read_bytes())
    pace = Pace(tokens, on_gpu=plan.placement.kind != "cpu")
    result = backends.train(plan, rows, base=base, out=job, on_step=pace, stopped=lambda: False)
    print(json.dumps(pace.found() | {"losses": [result.losses[0], result.losses[-1]], "adapter": True}), flush=True)
    return 0


class Pace:
    """When each step was told."""

    def __init__(self, tokens: float, *, on_gpu: bool) -> None:
        self._tokens, self._on_gpu = tokens, on_gpu
        self._times: list[float] = []
        self._told = time.perf_counter()

    def __call__(self, *_: object) -> None:
        """Note a step, and tell how fast they are where it is time."""
        self._times.append(time.perf_counter())
        if self._times[-1] > self._told + TELL and len(self._times) > WARM + 2:
            self._told = self._times[-1]
            print(json.dumps(self.found()), flush=True)

    def found(self) -> dict[str, Any]:
        """Return what can be said so far."""
        import torch

        warm = min(WARM, len(self._times) - 2)
        steps = len(self._times) - 1 - warm
        return {
            "tokens_a_second": self._tokens * steps / (self._times[-1] - self._times[warm]),
            "peak_gb": torch.cuda.max_memory_reserved() / 1e9 if self._on_gpu else peak_rss() / 1e9,
            "device": torch.cuda.get_device_name(0) if self._on_gpu else "cpu",
            "steps": len(self._times),
        }


def tokens_a_step(base: Path, rows: Sequence[Row], lora: Lora) -> float:
    """Return the tokens of a step, padding aside, as the trainer counts them."""
    from transformers import AutoTokenizer

    encoded = encode(AutoTokenizer.from_pretrained(base), rows, lora.max_length, context(base))
    return encoded.tokens / steps(len(encoded.rows), lora)


def served(folder: Path, base: tiny.Tiny, job: Path) -> dict[str, Any]:
    """Convert a case's adapter and have llama.cpp answer with it beside the base; say which of the two was seen."""
    gguf = folder / f"{job.name}.gguf"
    GgufBuilder().adapter(job / "adapter", base.q8_0, gguf, "F16")
    if importlib.util.find_spec("xllamacpp") is None:
        return {"converts": True, "answers": None}
    request = {"prompt": tiny.prompts(base, 1)[0], "temperature": 0.0, "n_predict": 4}
    return {"converts": True, "answers": bool(tiny.llama_answers(base.q8_0, [request], gguf)[0])}


def mfu(found: dict[str, Any], arguments: argparse.Namespace) -> float | None:
    """Return the share of the device's peak that was useful work; None where the peak is not known."""
    known = next((peak for part, peak in PEAKS.items() if part in found.get("device", "")), None)
    peak = arguments.peak_tflops * 1e12 if arguments.peak_tflops else known
    if peak is None or arguments.dry_run or "tokens_a_second" not in found:
        return None
    return 4 * VALUES * found["tokens_a_second"] / peak


def named(case: Case) -> str:
    """Return a case's name."""
    return f"{case[0]}-{'4bit' if case[2] else '16bit'}"


def line(case: Case, found: dict[str, Any]) -> str:
    """Say what a case found."""
    if "tokens_a_second" not in found:
        return f"{named(case)}: failed: {found.get('failed')}"
    share = "unknown" if found["mfu"] is None else f"{found['mfu']:.1%}"
    said = (
        f"{named(case)}: {found['tokens_a_second']:.0f} tokens/s over {found['steps']} steps, MFU {share}, "
        f"peak {found['peak_gb']:.2f} GB, loss {found.get('losses', 'unknown')}, {found['device']}"
    )
    if "converts" in found:
        answers = {
            None: "no llama.cpp at hand to answer",
            True: "llama.cpp answers",
            False: "llama.cpp does not answer",
        }
        said += f"; its adapter converts, and {answers[found['answers']]} with it"
    return f"{said}; stopped early: {found['failed']}" if "failed" in found else said


def say(text: str) -> None:
    """Tell how far it is, beside the results."""
    print(text, file=sys.stderr, flush=True)


def report(done: dict[Case, dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the claim: Unsloth's tokens a second over TRL's at each width, and what its adapters did."""
    ratios = {}
    for (backend, device, qlora), found in done.items():
        peer = done.get(("trl", device, qlora), {})
        if backend == "unsloth" and "tokens_a_second" in found and "tokens_a_second" in peer:
            ratios["4-bit" if qlora else "16-bit"] = found["tokens_a_second"] / peer["tokens_a_second"]
    adapters = [found.get("answers") for case, found in done.items() if case[0] == "unsloth"]
    whole = len(ratios) == len(adapters) and not any("failed" in found for found in done.values())
    result = {
        "claim": "tokens a second of Unsloth over plain TRL, on one device",
        "value": {bits: round(ratio, 3) for bits, ratio in ratios.items()},
        "goal": GOAL,
        "holds": whole and all(adapters) and not arguments.dry_run and min(ratios.values()) >= GOAL,
        "adapters_convert": [found.get("converts", False) for case, found in done.items() if case[0] == "unsloth"],
        "adapters_answer": adapters,
        "dry_run": arguments.dry_run,
        "cases": {named(case): {k: v for k, v in found.items() if k != "job"} for case, found in done.items()},
    }
    device = next((found["device"] for found in done.values() if "device" in found), None)
    print(json.dumps(result | {"peer": {"name": "TRL without Unsloth", "device": device}}))


if __name__ == "__main__":
    sys.exit(main())
