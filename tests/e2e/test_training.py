"""Real training runs in real processes: the same bytes again, after a stop, after a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleetssd import safetensors
from fleetssd.adapters.trainer_process import ProcessTrainer, adapter_stats
from fleetssd.adapters.trainer_process.child import bubblewrap_works, confined, environment
from fleetssd.errors import Corrupt, FleetError, Rejected
from fleetssd.training import steps
from tests.e2e import tiny
from tests.e2e.conftest import Trained

pytestmark = pytest.mark.e2e

TOTAL = steps(len(tiny.ROWS), tiny.LORA)


def silent(*_: object) -> None:
    """Hear no progress."""


def lay_out(folder: Path, trained: Trained) -> Path:
    """Write a job folder by hand, as the trainer process expects it."""
    folder.mkdir()
    shutil.copy(trained.rows, folder / "rows.jsonl")
    (folder / "plan.json").write_text(json.dumps(trained.plan.to_json()))
    return folder


def run_until(step: int, job: Path, base: Path, number: int) -> tuple[int, list[dict[str, object]]]:
    """Start the trainer on a job folder, send it a signal once it reports this step, return its code and events."""
    command = [sys.executable, "-m", "services.trainer", "train", "--job", str(job), "--base", str(base)]
    surroundings = environment(job, 1)
    events: list[dict[str, object]] = []
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        for line in child.stdout:
            events.append(json.loads(line))
            if events[-1].get("step") == step:
                child.send_signal(number)
        code = child.wait()
    return code, events


def test_a_run_learns_and_says_what_it_did(trained: Trained) -> None:
    """A run reports every step, its loss falls, and its result matches its plan and its adapter."""
    result = trained.result
    assert result.steps == TOTAL == len(result.losses)
    assert [event[0] for event in trained.progress if event[1]] == list(range(1, TOTAL + 1))
    assert result.losses[-1] < result.losses[0] / 2
    assert (result.rows_used, result.rows_too_long) == (len(tiny.ROWS), 0)
    assert adapter_stats(trained.folder / "adapter").digest == result.adapter_digest


def test_an_adapter_names_no_local_path(trained: Trained, tiny_model: tiny.Tiny) -> None:
    """Nothing in the adapter's folder says where it was made."""
    for path in (trained.folder / "adapter").iterdir():
        assert str(tiny_model.hf).encode() not in path.read_bytes()
        assert str(trained.folder).encode() not in path.read_bytes()


def test_a_second_run_gives_the_same_bytes(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """Two processes, confined or not, make the same adapter and the same adapter_config.json."""
    again = ProcessTrainer(isolate=False).train(trained.plan, trained.rows, tiny_model.hf, tmp_path / "run", silent)
    assert again.adapter_digest == trained.result.adapter_digest
    assert again.losses == trained.result.losses
    name = "adapter/adapter_config.json"
    assert (tmp_path / "run" / name).read_bytes() == (trained.folder / name).read_bytes()


def test_a_stopped_run_resumes_to_the_same_bytes(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """SIGTERM ends with 75 and a checkpoint; started again, the run ends as if unbroken."""
    job = lay_out(tmp_path / "run", trained)
    code, events = run_until(7, job, tiny_model.hf, signal.SIGTERM)
    assert code == 75
    assert events[-1]["kind"] == "Transient"
    assert not (job / "result.json").exists()
    stopped_at = max(int(str(event["step"])) for event in events if "step" in event)
    assert (job / "checkpoints" / f"checkpoint-{stopped_at}" / "whole").exists()

    seen: list[tuple[int, int, str]] = []
    trainer = ProcessTrainer(isolate=False)
    result = trainer.train(trained.plan, trained.rows, tiny_model.hf, job, lambda *event: seen.append(event))
    assert seen == list(trained.progress[-len(seen) :])
    assert seen[0][0] == stopped_at + 1
    assert result.adapter_digest == trained.result.adapter_digest
    assert result.losses == trained.result.losses


def test_a_killed_run_resumes_and_an_interrupted_one_keeps_its_steps(
    trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path
) -> None:
    """Kill -9 leaves no result and costs the steps since the checkpoint; an interrupted parent's child loses none."""
    job = lay_out(tmp_path / "run", trained)
    code, _ = run_until(55, job, tiny_model.hf, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (job / "result.json").exists()
    torn = job / "checkpoints" / "checkpoint-9000"
    torn.mkdir()
    seen: list[tuple[int, int, str]] = []

    def interrupt(step: int, total: int, what: str) -> None:
        if total:
            seen.append((step, total, what))
        if step == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ProcessTrainer(isolate=True).train(trained.plan, trained.rows, tiny_model.hf, job, interrupt)
    assert seen == [event for event in trained.progress if 51 <= event[0] <= 60]
    assert not torn.exists()
    assert not (job / "result.json").exists()
    kept = [int(path.parent.name.partition("-")[2]) for path in job.glob("checkpoints/*/whole")]
    assert max(kept) >= 60


def test_a_loss_that_is_no_number_fails_the_run(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """A base with one NaN weight gives Rejected at the first step, and neither adapter nor result."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model.hf, base)
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    span = safetensors.parse(bytes(data), len(data))["model.layers.1.mlp.down_proj.weight"]
    data[span.offset : span.offset + 4] = b"\x00\x00\xc0\x7f"
    weights.write_bytes(data)
    plan = tiny.plan_for(base)
    with pytest.raises(Rejected, match="NaN or infinite at step 1"):
        ProcessTrainer(isolate=False).train(plan, trained.rows, base, tmp_path / "run", silent)
    assert not (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_finished_run_is_returned_without_a_process(trained: Trained, tiny_model: tiny.Tiny) -> None:
    """A folder with a result is read, not trained again: no Python is needed for it."""
    trainer = ProcessTrainer(Path("/bin/false"), isolate=False)
    assert trainer.train(trained.plan, trained.rows, tiny_model.hf, trained.folder, silent) == trained.result


def test_a_folder_of_another_plan_is_cleared(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """A run whose plan differs starts from nothing: an old result is not taken for the new one's."""
    job = tmp_path / "run"
    shutil.copytree(trained.folder, job)
    other = dataclasses.replace(trained.plan, seed=2)
    with pytest.raises(FleetError, match="exit code 1"):
        ProcessTrainer(Path("/bin/false"), isolate=False).train(other, trained.rows, tiny_model.hf, job, silent)
    assert sorted(path.name for path in job.iterdir()) == ["meter.jsonl", "plan.json", "rows.jsonl", "trainer.log"]


def test_a_damaged_adapter_is_not_accepted(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """One changed byte in a finished adapter raises Corrupt."""
    job = tmp_path / "run"
    shutil.copytree(trained.folder, job)
    weights = job / "adapter" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Corrupt, match="adapter digest"):
        ProcessTrainer(isolate=False).train(trained.plan, trained.rows, tiny_model.hf, job, silent)


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        ("empty", Corrupt, "holds no tensor"),
        ("zeros", Rejected, "all zeros"),
        ("nan", Rejected, "NaN or infinite weights"),
    ],
)
def test_an_adapter_that_says_nothing_is_not_accepted(
    trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path, damage: str, error: type[FleetError], words: str
) -> None:
    """An adapter without tensors, of zeros or with a NaN is refused, though its result vouches for its bytes."""
    job = tmp_path / "run"
    shutil.copytree(trained.folder, job)
    weights = job / "adapter" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if damage == "empty":
        data = bytearray((2).to_bytes(8, "little") + b"{}")
    elif damage == "zeros":
        data[start:] = bytes(len(data) - start)
    else:
        data[-4:] = b"\x00\x00\xc0\x7f"
    weights.write_bytes(data)
    result = json.loads((job / "result.json").read_text())
    result["adapter_digest"] = hashlib.sha256(data).hexdigest()
    (job / "result.json").write_text(json.dumps(result))
    with pytest.raises(error, match=words):
        ProcessTrainer(Path("/bin/false")).train(trained.plan, trained.rows, tiny_model.hf, job, silent)


def test_rows_that_are_not_the_plans_are_refused(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """A rows file that changed after the plan raises Corrupt before anything starts."""
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(trained.rows.read_bytes().replace(b"plus", b"PLUS"))
    with pytest.raises(Corrupt, match="not the file the plan names"):
        ProcessTrainer(isolate=False).train(trained.plan, rows, tiny_model.hf, tmp_path / "run", silent)


def test_a_base_that_changed_is_refused(trained: Trained, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """Weights whose digest is not the plan's raise Corrupt in the child, before torch is loaded."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes((tiny_model.hf / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(Corrupt, match="base digest"):
        ProcessTrainer(isolate=False).train(trained.plan, trained.rows, base, tmp_path / "run", silent)


def test_a_missing_job_is_misconfigured(tmp_path: Path) -> None:
    """A folder without a plan ends with 78 and says what belongs there."""
    command = [sys.executable, "-m", "services.trainer", "train", "--job", str(tmp_path), "--base", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "plan.json" in json.loads(done.stdout)["hint"]


@pytest.mark.parametrize("verb", [[], ["train"], ["base"]])
def test_every_verb_explains_itself(verb: list[str]) -> None:
    """--help works on the program and on each verb, without loading torch."""
    code = (
        "import sys\nfrom services.trainer import main\n"
        "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage:" in done.stdout


ATTACK = """
import glob, os, socket, sys
port, pid, token, *places = sys.argv[1:]
found = []
def tried(name, attack):
    try:
        if attack(): found.append(name)
    except OSError: pass
def knock(family, address):
    with socket.socket(family) as s:
        s.settimeout(5)
        return s.connect_ex(address) == 0
tried("network", lambda: knock(socket.AF_INET, ("127.0.0.1", int(port))))
tried("network by name", lambda: knock(socket.AF_UNIX, "\\0fleetssd-" + port))
tried("token", lambda: open(token).read())
tried("database", lambda: open(os.path.join(os.path.dirname(token), "fleetssd.sqlite3")).read())
tried("token through a process", lambda: open(f"/proc/{pid}/root{token}").read())
tried("environment of a process", lambda: b"SECRET" in open(f"/proc/{pid}/environ", "rb").read())
tried("environment", lambda: "SECRET" in str(os.environ))
for at in glob.glob("/proc/[0-9]*/root"):
    tried("token through any process", lambda: open(at + token).read())
for place in places:
    tried(place, lambda: open(os.path.join(place, "mark"), "w").close() is None)
print(sorted(set(found)))
"""
"""What a trainer that were taken over would try: every line that works is printed."""


@pytest.mark.skipif(not bubblewrap_works(), reason="bubblewrap cannot start here")
def test_a_confined_trainer_reaches_no_network_token_or_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of reach: listening ports, sockets by name, files, environments, other processes' roots; one folder writes.

    The same attack without walls gets everything: so it is the walls that hold.
    """
    monkeypatch.setenv("FLEETSSD_SECRET", "SECRET")
    for name in ("base", "job"):
        (tmp_path / name).mkdir()
    for name in ("token", "fleetssd.sqlite3"):
        (tmp_path / name).write_text("private")
    job, base = tmp_path / "job", tmp_path / "base"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        port = server.getsockname()[1]
        named.bind(f"\0fleetssd-{port}")
        named.listen()
        idle = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(idle, stdin=subprocess.PIPE) as other:  # a process of ours with a secret environment
            attack = [sys.executable, "-c", ATTACK, str(port), str(other.pid), str(tmp_path / "token")]
            attack += [str(base), sys.prefix, str(job)]
            walled = [*confined(Path(sys.executable), base, job), *attack]
            inside = subprocess.run(walled, capture_output=True, text=True, check=True, env=environment(job, 1))
            attack[attack.index(sys.prefix)] = str(job)
            outside = subprocess.run(attack, capture_output=True, text=True, check=True)
    assert inside.stdout.strip() == str([str(job)])
    names = [
        "network", "network by name", "token", "database", "token through a process", "environment of a process",
        "environment", "token through any process",
    ]  # fmt: skip
    assert outside.stdout.strip() == str(sorted([*names, str(base), str(job)]))


def test_a_trainer_is_told_what_it_needs_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is made, not inherited, and it is offline for every library that could go online."""
    monkeypatch.setenv("HF_TOKEN", "SECRET")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    told = environment(tmp_path, 1)
    assert "HF_TOKEN" not in told
    assert (told["HF_HUB_OFFLINE"], told["UNSLOTH_DISABLE_STATISTICS"], told["UNSLOTH_AUTO_INSTALL"]) == ("1", "1", "0")
