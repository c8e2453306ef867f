"""Real training through all three backends: TRL, Unsloth on its CPU backend, and Unsloth's MLX side on a Linux CPU."""

# ruff: noqa: PLC0415  the training stack is loaded by the tests that use it, not by collecting them
from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.adapters.trainer_process import ProcessTrainer, adapter_stats
from fleetssd.adapters.trainer_process.child import environment
from fleetssd.errors import Misconfigured
from fleetssd.fidelity import read_witnesses
from fleetssd.placement import Placement
from fleetssd.training import TrainPlan, TrainResult, acceptable, encode_rows, steps
from tests.e2e import tiny

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # five trainings in one fixture, on whatever cores are left

LORA = dataclasses.replace(tiny.LORA, epochs=4, learning_rate=2e-3, warmup_steps=None, rate_floor=0.2)
"""A calm rate: Adam divides by the gradient's size, so a large one makes much of the last bit of two kernels."""
TOTAL = steps(len(tiny.ROWS), LORA)
STOP = 5
TRAINERS = {"trl": "services.trainer", "unsloth": "services.trainer", "unsloth-mlx": "tests.e2e.apple_child"}


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run: its folder, its plan and result, and the exit codes of the processes that it took."""

    folder: Path
    plan: TrainPlan
    result: TrainResult
    codes: tuple[int, ...]


@pytest.fixture(scope="module")
def runs(tiny_model: tiny.Tiny, backends: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Train the same rows with the same seed by every backend, two also with a stop in the middle."""
    wanted = [("trl", False), ("unsloth", False), ("unsloth", True), ("unsloth-mlx", False), ("unsloth-mlx", True)]

    def one(case: tuple[Any, bool]) -> Run:
        backend, broken = case
        folder = tmp_path_factory.mktemp("run")
        plan = dataclasses.replace(tiny.plan_for(tiny_model.hf, lora=LORA), placement=Placement(backend))
        (folder / "rows.jsonl").write_bytes(encode_rows(tiny.ROWS))
        (folder / "plan.json").write_text(json.dumps(plan.to_json()))
        codes = [run(backends, folder, tiny_model.hf, plan, STOP)] if broken else []
        codes.append(run(backends, folder, tiny_model.hf, plan, None))
        result = TrainResult.from_json(json.loads((folder / "result.json").read_text()))
        return Run(folder, plan, result, tuple(codes))

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(one, wanted))
    return {f"{backend} stopped" if broken else backend: r for (backend, broken), r in zip(wanted, done, strict=True)}


def run(python: Path, job: Path, base: Path, plan: TrainPlan, stop: int | None) -> int:
    """Start the trainer, send SIGTERM once it reports a step where one is named, return its exit code."""
    module = TRAINERS[plan.placement.backend]
    command = [str(python), "-m", module, "train", "--job", str(job), "--base", str(base)]
    surroundings = environment(job, 1, plan.placement)
    with (
        (job / "log").open("ab") as log,
        subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=log, cwd=job) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            if stop and b'"event": "step", "step": %d,' % stop in line:
                child.send_signal(signal.SIGTERM)
        code = child.wait()
    assert code in (0, 75), (job / "log").read_text()[-2000:]
    return code


@pytest.mark.parametrize("backend", ["trl", "unsloth", "unsloth-mlx"])
def test_a_backend_trains_an_acceptable_adapter(runs: dict[str, Run], backend: str) -> None:
    """Every backend reports a loss a step, the loss falls, and the adapter is plain float32 LoRA of the plan."""
    run = runs[backend]
    acceptable(run.plan, run.result, adapter_stats(run.folder / "adapter"))
    assert len(run.result.losses) == TOTAL
    assert run.result.losses[-1] < 0.8 * run.result.losses[0]
    assert run.result.backend == f"{backend}-cpu"
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", LORA.rank, LORA.alpha)
    assert config["base_model_name_or_path"] is None


@pytest.mark.parametrize("backend", ["trl", "unsloth", "unsloth-mlx"])
def test_the_rate_climbs_for_a_tenth_and_falls_to_its_floor(runs: dict[str, Run], backend: str) -> None:
    """Whoever trains, the rate of every step is the climb of a tenth of them and a cosine that ends at a fifth."""
    (last,) = (runs[backend].folder / "checkpoints").glob(f"checkpoint-{TOTAL}/trainer_state.json")
    rates = [entry["learning_rate"] for entry in json.loads(last.read_text())["log_history"] if "loss" in entry]
    warm = math.ceil(TOTAL / 10)
    climb = [step / warm for step in range(warm)]
    fall = [0.2 + 0.4 * (1 + math.cos(math.pi * step / (TOTAL - warm))) for step in range(TOTAL - warm)]
    assert rates == pytest.approx([LORA.learning_rate * share for share in (*climb, *fall)], rel=1e-3)


def test_all_backends_see_the_same_tokens_first(runs: dict[str, Run]) -> None:
    """Before the first update the adapter is zero, so the first loss is the base's own, whoever computes it."""
    first = {name: run.result.losses[0] for name, run in runs.items()}
    assert max(first.values()) - min(first.values()) < 1e-4


@pytest.mark.parametrize("backend", ["unsloth", "unsloth-mlx"])
def test_all_backends_leave_what_their_model_says(runs: dict[str, Run], backend: str) -> None:
    """First tokens of the base are alike whoever computes them, the adapter changes them, and the answers are text."""
    plain, other = (
        read_witnesses(json.loads((runs[name].folder / "smoke.json").read_text())) for name in ("trl", backend)
    )
    for one, two in zip(plain, other, strict=True):
        shared = one.base.first.keys() & two.base.first.keys()
        assert len(shared) >= 8
        assert max(abs(one.base.first[token] - two.base.first[token]) for token in shared) < 1e-3
        assert max(abs(two.adapted.first[token] - value) for token, value in two.base.first.items()) > 0.1
        assert two.base.greedy == one.base.greedy


def test_unsloth_agrees_with_trl(runs: dict[str, Run]) -> None:
    """On the CPU, with one seed and the same rows, no weight of the two adapters differs by more than 1e-6."""
    from safetensors.numpy import load_file

    plain, fast = (
        load_file(runs[name].folder / "adapter" / "adapter_model.safetensors") for name in ("trl", "unsloth")
    )
    assert plain.keys() == fast.keys()
    assert max(float(abs(plain[name] - fast[name]).max()) for name in plain) <= 1e-6
    assert max(float(abs(weight).max()) for weight in plain.values()) > 0.1


@pytest.mark.parametrize("backend", ["unsloth", "unsloth-mlx"])
def test_a_stopped_run_resumes_to_the_same_bytes(runs: dict[str, Run], backend: str) -> None:
    """SIGTERM ends a run with 75 and a checkpoint; started again it ends with the bytes of an unbroken one."""
    whole, broken = runs[backend], runs[f"{backend} stopped"]
    assert broken.codes == (75, 0)
    assert broken.result.adapter_digest == whole.result.adapter_digest
    assert broken.result.losses == whole.result.losses


@pytest.mark.parametrize("backend", ["unsloth", "unsloth-mlx"])
def test_an_adapter_converts_and_is_served(
    runs: dict[str, Run], backend: str, tiny_model: tiny.Tiny, tmp_path: Path
) -> None:
    """The adapter becomes a GGUF that llama.cpp loads beside the base, and answers as PEFT does with the original."""
    adapter = runs[backend].folder / "adapter"
    GgufBuilder().adapter(adapter, tiny_model.f32, tmp_path / "adapter.gguf", "F16")
    served = tiny.llama_greedy(tiny_model, tiny_model.f32, tmp_path / "adapter.gguf")
    assert served == tiny.hf_greedy(tiny_model, adapter)
    assert served != tiny.hf_greedy(tiny_model, None)


@pytest.mark.parametrize("gpu", [True, False], ids=["gpu", "cpu"])
def test_unsloth_knows_every_name_that_we_pass(backends: Path, tmp_path: Path, gpu: bool) -> None:
    """Our keyword arguments are parameters of the real classes: the GPU's, imported without one, and the CPU's."""
    from fleetssd.adapters.backends import on_unsloth, sft
    from fleetssd.adapters.backends.job import Job

    surroundings = environment(tmp_path, 1) | ({"UNSLOTH_ALLOW_CPU": "1"} if gpu else {})
    command = [str(backends), "-m", "tests.e2e.signatures_child"]
    done = subprocess.run(command, env=surroundings, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["device"] == "cpu") is not gpu
    plan = tiny_plan()
    job = Job(plan, tmp_path, (), None, TOTAL, 128, tmp_path, None, None)
    torch: Any = SimpleNamespace(float32="float32")
    ours: dict[str, Any] = {
        "SFTConfig": ["output_dir", *sft._arguments(job)],
        "for_inference": ["model"],
        "from_pretrained": on_unsloth.from_pretrained(job, SimpleNamespace(torch=torch)),  # type: ignore[arg-type]
        "get_peft_model": on_unsloth.get_peft_model(plan),
    }
    for name, arguments in ours.items():
        assert set(arguments) <= set(said["parameters"][name]), said["files"][name]


def tiny_plan() -> TrainPlan:
    """State a run that is never started."""
    return TrainPlan(1, "b", "r", 12, LORA, seed=1, threads=1)


def test_a_run_for_a_gpu_never_trains_on_the_cpu(
    backends: Path, runs: dict[str, Run], tiny_model: tiny.Tiny, tmp_path: Path
) -> None:
    """Where the planned device is gone, TRL and Unsloth both end with 78 and leave neither step nor adapter."""
    seen: list[int] = []
    for backend in ("trl", "unsloth"):
        plan = dataclasses.replace(runs["trl"].plan, placement=Placement(backend, "cuda", "bfloat16"))  # type: ignore[arg-type]
        job = tmp_path / backend
        with pytest.raises(Misconfigured):
            ProcessTrainer(backends, isolate=True).train(
                plan, runs["trl"].folder / "rows.jsonl", tiny_model.hf, job, lambda step, total, _: seen.append(total)
            )
        assert not (job / "adapter").exists()
    assert [total for total in seen if total] == []
