"""Installs an adapter night by both roads on a base of Qwen3-4B's shape, and compares what is written and how long.

The first road puts the adapter's GGUF into the engine and has it pull a manifest from us; the second merges it into the
Q8_0 base, uploads the whole and lets the engine create a model of it. Both begin with the trained adapter and end with
a name that `show` proves. Bytes are those that builder and engine wrote to files, by the kernel's count of each process
and by the growth of the engine's folder. That both roads answer alike is asked of the tests' tiny model, quantised as
the large one is, with an adapter that is trained here: what random weights or random adapters say hangs on near-ties,
which rounding decides.

usage: python -m benchmarks.install [--layers 36] [--rank 32] [--type F16] [--profile 0.34.1] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from benchmarks.convert import HIDDEN, LAYERS, VOCABULARY, make_adapter, make_base
from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.config import Base, Recipe
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling
from fleetssd.training import encode_rows
from tests.e2e import tiny

GOAL = 1 / 20
BASE = "fleet-base:latest"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 16)
ROADS = ("adapter-registry", "merged-create")


@dataclass(frozen=True)
class Road:
    """What a road cost: seconds, bytes written by builder and engine, and bytes that the engine's folder grew by."""

    seconds: float
    written: int
    kept: int


@dataclass(frozen=True)
class Server:
    """A running engine, its process and its folder."""

    engine: OllamaEngine
    url: str
    pid: int
    folder: Path

    def create(self, model: str, path: Path) -> None:
        """Create the base of a file."""
        body = {"model": model, "files": {"m.gguf": f"sha256:{self.engine.upload(path)}"}, "stream": False}
        httpx.post(f"{self.url}/api/create", json=body, timeout=900).raise_for_status()


@contextmanager
def server(folder: Path, profile: str) -> Iterator[Server]:
    """Run the embedded Ollama over a folder."""
    command = [sys.executable, "-m", "services.embedded_ollama", "--port", "0"]
    command += ["--data", str(folder), "--profile", profile]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            serve = partial(serve_manifest, "127.0.0.1")
            with closing(OllamaEngine(url, BASE, serve, timeout=900, concurrency=1)) as engine:
                yield Server(engine, url, process.pid, folder)
        finally:
            process.terminate()
            process.wait(timeout=60)


def written(pid: int) -> int:
    """Return the bytes that a process gave to write(2), pipes and sockets too: those are few here."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(made: Server, road: str, adapter: Path, base: Path, scratch: Path, kind: str) -> Road:
    """Take one road from the trained adapter to the proven name; `kind` is the type of an adapter's matrices."""
    builder, engine, out = GgufBuilder(), made.engine, scratch / f"{road}.gguf"
    before, grown, began = written(made.pid), size(made.folder), time.perf_counter()
    if road == "adapter-registry":
        builder.adapter(adapter, base, out, kind)
        engine.pull(f"fleet:{road}", BASE, None, engine.upload(out))
    else:
        builder.merged(adapter, base, out, 1.0)
        engine.create(f"fleet:{road}", BASE, engine.upload(out), None)
    seconds = time.perf_counter() - began
    found = Road(seconds, out.stat().st_size + written(made.pid) - before, size(made.folder) - grown)
    out.unlink()
    return found


def alike(profile: str, kind: str) -> tuple[bool, bool]:
    """Return whether both roads give the same greedy answers on the tiny model, and none the base's."""
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "ollama", profile) as made:
        scratch = Path(name)
        model = tiny.make(scratch)
        (scratch / "rows.jsonl").write_bytes(encode_rows(tiny.ROWS))
        job = tiny.plan_for(model.hf)
        ProcessTrainer().train(job, scratch / "rows.jsonl", model.hf, scratch / "run", lambda *_: None)
        made.create(BASE, model.q8_0)
        for road in ROADS:
            measured(made, road, scratch / "run" / "adapter", model.q8_0, scratch, kind)
        prompts = [Prompt(row.prompt, 1) for row in tiny.ROWS]
        base, adapter, merged = (
            [answer.text for answer in made.engine.complete(name, prompts, GREEDY, lambda *_: None)]
            for name in (BASE, *(f"fleet:{road}" for road in ROADS))
        )
        return adapter == merged, all(one != other for one, other in zip(adapter, base, strict=True))


def main() -> None:
    """Print a row for each road and, last, the claim as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers; the model itself has {LAYERS}")
    rank, kind = (table.model_fields[name].default for table, name in ((Recipe, "rank"), (Base, "adapter_type")))
    parser.add_argument("--rank", type=int, default=rank, help=f"on all seven matrices (default {rank}, the recipe's)")
    parser.add_argument("--type", choices=("F16", "F32"), default=kind, help=f"of the adapter (default {kind})")
    parser.add_argument("--profile", default="0.34.1", help="Ollama to stand in for (default 0.34.1)")
    parser.add_argument("--dir", type=Path, help="where to write; needs five times the base, all of it given back")
    args = parser.parse_args()
    need = 5 * (args.layers * 107e6 + VOCABULARY * HIDDEN * 34 / 32)
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        scratch = Path(name)
        if shutil.disk_usage(scratch).free < need:
            sys.exit(f"{need / 1e9:.0f} GB are needed: --dir elsewhere, or --layers 4")
        base, adapter = scratch / "base.gguf", scratch / "adapter"
        make_base(base, args.layers)
        make_adapter(adapter, args.layers, args.rank)
        os.sync()
        with server(scratch / "ollama", args.profile) as made:
            made.create(BASE, base)
            roads = {road: measured(made, road, adapter, base, scratch, args.type) for road in ROADS}
    print(f"{'road':>17} {'seconds':>8} {'written MB':>11} {'kept MB':>9}")
    for road, found in roads.items():
        print(f"{road:>17} {found.seconds:>8.1f} {found.written / 1e6:>11.0f} {found.kept / 1e6:>9.0f}")
    small, large = (roads[road] for road in ROADS)
    same, changed = alike(args.profile, args.type)
    ratio = small.written / large.written
    print(f"the same greedy answers by both roads, and not the base's, on the tiny model: {same and changed}")
    result = {
        "claim": "bytes that an adapter night writes by the registry, over merging and creating",
        "value": round(ratio, 4),
        "goal": GOAL,
        "holds": ratio <= GOAL and same and changed,
        "layers": args.layers,
        "rank": args.rank,
        "type": args.type,
        "seconds": {road: round(found.seconds, 2) for road, found in roads.items()},
        "written": {road: found.written for road, found in roads.items()},
        "kept": {road: found.kept for road, found in roads.items()},
        "same_answers": same and changed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
