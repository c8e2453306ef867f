"""What a real training left of its model, against what real llama.cpp serves of its adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest

from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.checkpoints import Road
from fleetssd.errors import Rejected
from fleetssd.fidelity import Fidelity, read_witnesses
from fleetssd.operations.install import install
from fleetssd.operations.learn import file_digest
from fleetssd.recipe import Lora, NightPlan, Sampling
from tests.contract.servers import embedded_ollama
from tests.e2e import tiny
from tests.e2e.conftest import Trained

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
BASE = "fleet-base:latest"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 8)
PLAN = NightPlan(
    1, "ssd", 1, (), (), (), GREEDY, Lora(4, 8.0, (), 1e-3, 4, 1, 1, 0, 64), GREEDY, "none", (0.2,), 4, 4, "auto", "0",
    "0", BASE, 1.0,
)  # fmt: skip
Tensors = dict[str, Any]

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Bench:
    """An engine with the tiny base, and the run that was trained on it."""

    engine: OllamaEngine
    trained: Trained
    base: Path
    folder: Path

    def install(self, kind: str, path: Path, road: Road, tau: float = 1.0) -> Fidelity | None:
        """Install a file by a road, with what the trainer left, and return how like its model it is."""
        path.rename(self.folder / f"{kind}.gguf")
        witnesses = read_witnesses(json.loads((self.trained.folder / "smoke.json").read_text()))
        return install(
            self.engine, plan=replace(PLAN), base_model=BASE, alias="fleet-coder:latest", folder=self.folder,
            files={kind: file_digest(self.folder / f"{kind}.gguf")}, road=road, tau=tau,
            prompts=[row.prompt for row in tiny.ROWS[:2]], witnesses=witnesses, now=NOW,
        ).fidelity  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield an engine of this module's own."""
    with embedded_ollama(tmp_path_factory.mktemp("ollama"), "0.34.1") as url:
        yield url


@pytest.fixture
def bench(server: str, tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path) -> Iterator[Bench]:
    """Serve the tiny base, quantised as fleets have it."""
    with closing(OllamaEngine(server, BASE, partial(serve_manifest, "127.0.0.1"), concurrency=1)) as engine:
        body = {"model": BASE, "files": {"m.gguf": f"sha256:{engine.upload(tiny_model.q8_0)}"}, "stream": False}
        httpx.post(f"{server}/api/create", json=body | {"parameters": {"num_ctx": 128}}, timeout=30).raise_for_status()
        yield Bench(engine, trained, tiny_model.q8_0, tmp_path)


def adapter(bench: Bench, change: Callable[[float, Tensors], tuple[float, Tensors]]) -> Path:
    """Build the trained adapter and write it anew with another alpha or other tensors."""
    right, out = bench.folder / "right.gguf", bench.folder / "changed.gguf"
    GgufBuilder().adapter(bench.trained.folder / "adapter", bench.base, right, "F16")
    read = gguf.GGUFReader(right)
    tensors = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    alpha, tensors = change(float(read.fields["adapter.lora.alpha"].parts[-1][0]), tensors)
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def blocks_exchanged(alpha: float, tensors: Tensors) -> tuple[float, Tensors]:
    """Give each of the two blocks what the other one learned."""
    other = {"blk.0": "blk.1", "blk.1": "blk.0"}
    return alpha, {other[name[:5]] + name[5:]: data for name, data in tensors.items()}


def test_the_adapter_that_was_trained_is_served_at_its_strength(bench: Bench) -> None:
    """On a quantised base: strength 1 within 2 %, a gap within the noise, and the prompt as it was trained."""
    found = bench.install("adapter", adapter(bench, lambda *same: same), "adapter-registry")
    assert found is not None
    assert found.by == "likelihoods"
    assert found.prompted
    assert found.strength == pytest.approx(1.0, abs=0.02)
    assert found.gap < found.bound
    assert found.compared >= 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda alpha, tensors: (2 * alpha, tensors), "than was trained|as was trained"),
        (lambda _, tensors: (0.0, tensors), "than was trained|as was trained"),
        (lambda alpha, tensors: (alpha, {name: 0 * data for name, data in tensors.items()}), "no effect"),
        (blocks_exchanged, "trained"),
    ],
    ids=["alpha doubled", "alpha lost", "zeros", "blocks exchanged"],
)
def test_another_adapter_is_refused(
    bench: Bench, change: Callable[[float, Tensors], tuple[float, Tensors]], words: str
) -> None:
    """llama.cpp loads it and it answers; what it answers is not what was trained, and its name is gone."""
    before = bench.engine.names()
    with pytest.raises(Rejected, match=words):
        bench.install("adapter", adapter(bench, change), "adapter-registry")
    assert bench.engine.names().keys() - before.keys() == set()


def test_a_merged_file_with_a_baked_temperature_is_read_at_that_temperature(bench: Bench) -> None:
    """With τ told, strength is 1; with τ hidden, the same file is refused."""
    merged = bench.folder / "built.gguf"
    for tau in (0.2, 1.0):
        GgufBuilder().merged(bench.trained.folder / "adapter", bench.base, merged, 0.2)
        if tau == 1.0:
            with pytest.raises(Rejected, match="as much as was trained"):
                bench.install("merged", merged, "merged-registry", tau)
        else:
            found = bench.install("merged", merged, "merged-registry", tau)
            assert found is not None
            assert found.strength == pytest.approx(1.0, abs=0.02)
