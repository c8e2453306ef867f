"""Times our trainer, from plan to accepted adapter, against a bare TRL script that makes the same updates.

Both train the same random Qwen3 on the same rows in the same order; that the adapters are equal byte for byte shows
that the updates were the same. Both are alive at once and take turns: every `--slice` seconds one is stopped and the
other goes on, and each is timed by its own running time, so that a neighbour that comes and goes slows both alike.
Processor seconds stand beside the wall clock. Run it on a machine that does nothing else:

    python benchmarks/train_overhead.py              # about a quarter of an hour on one core
    python benchmarks/train_overhead.py --short      # does it run?
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.adapters.trainer_process.child import environment
from fleetssd.recipe import Lora
from fleetssd.training import Row, TrainPlan, batch_order, decode_rows, encode_rows, sha256, steps, weights_digest

WALL_GOAL, STEP_GOAL_MS, JOB_GOAL, FIRST_GOAL = 1.03, 1.0, 0.5, 6.0
GROUP = 10
"""Steps whose times are compared as a pair: both sides make them within a few turns of each other."""
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
    """Train once with a stopwatch around what is not ours; what is left of the processor's time is ours."""
    from fleetssd.adapters import backends  # noqa: PLC0415
    from fleetssd.adapters.backends import on_trl  # noqa: PLC0415

    watches: dict[str, float] = {"theirs": 0.0, "callbacks": 0.0}
    guard, prepare, load = backends.guard, on_trl.prepare, backends.load_tokenizer

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

    job = TrainPlan.from_json(json.loads(plan.read_text()))
    out.mkdir()
    on_trl.prepare = watched("theirs", prepare)
    on_trl.fit = watched("theirs", on_trl.fit)
    backends.load_tokenizer = watched("theirs", load)
    backends.guard = watched_guard
    began = time.thread_time()
    sha256((base / "model.safetensors").read_bytes())
    text = rows.read_bytes()
    result = backends.train(
        job, decode_rows(text), base=base, out=out, on_step=lambda *_: say("step"), stopped=lambda: False
    )
    spent = time.thread_time() - began
    say("own", step=watches["callbacks"] / result.steps, job=spent - watches["theirs"])


def say(event: str, **more: Any) -> None:
    """Print an event, one JSON line."""
    print(json.dumps({"event": event, **more}), flush=True)


class Side:
    """One of the two: a tree of processes that runs in turns. `clock` counts only its own turns."""

    def __init__(self, name: str, arguments: list[Path], home: Path) -> None:
        self.name, self.spent, self.since = name, 0.0, time.perf_counter()
        self.told: list[float] = []
        self.said: dict[str, dict[str, Any]] = {}
        self.cpu, self.running = 0.0, True
        self.process = child(name, *arguments, home=home)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @property
    def clock(self) -> float:
        """Seconds in which it ran."""
        return self.spent + (time.perf_counter() - self.since if self.running else 0.0)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith('{"event"'):
                continue  # TRL's own log
            event = json.loads(line)
            self.said[event["event"]] = event
            if event["event"] == "step":
                self.told.append(self.clock)

    def pause(self) -> None:
        """Stop the tree, parents first, so that nothing new comes up behind."""
        for pid in tree(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.spent, self.running = self.clock, False

    def go_on(self) -> None:
        """Let the tree run."""
        self.since, self.running = time.perf_counter(), True
        for pid in tree(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing behind that is stopped for ever."""
        if self.process.returncode is None:
            for pid in [*tree(self.process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def turn(self, seconds: float) -> bool:
        """Run for so long; tell whether it has ended, and then what it took."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.spent, self.running = self.clock, False
                self.cpu = usage.ru_utime + usage.ru_stime
                self.reader.join()
                assert os.waitstatus_to_exitcode(status) == 0, f"{self.name} failed"
                self.process.returncode = 0
                return True
            time.sleep(0.005)
        return False


def tree(pid: int) -> Iterator[int]:
    """Yield a process, then its descendants, each before its children."""
    yield pid
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            for below in path.read_text().split():
                yield from tree(int(below))


def child(verb: str, *arguments: Path | int, home: Path) -> subprocess.Popen[str]:
    """Start this script's verb with the trainer's own environment."""
    command = [sys.executable, str(Path(__file__).resolve()), verb, *map(str, arguments)]
    surroundings = environment(home, 1) | {"PATH": os.environ["PATH"]}
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def race(folder: Path, inputs: dict[str, list[Path]], seconds: float, first: str) -> dict[str, Side]:
    """Run both to their ends, in turns; ours waits, ready, before its clock starts."""
    ours_ = Side("ours", [*inputs["ours"], folder / "ours"], folder)
    os.waitpid(ours_.process.pid, os.WUNTRACED)
    ours_.spent, ours_.running = 0.0, False
    (folder / "bare").mkdir()
    bare_ = Side("bare", [*inputs["bare"], folder / "bare"], folder)
    bare_.pause()
    bare_.spent = 0.0
    waiting = [ours_, bare_] if first == "ours" else [bare_, ours_]
    try:
        while waiting:
            side = waiting.pop(0)
            side.go_on()
            if not side.turn(seconds):
                side.pause()
                waiting.append(side)
    finally:
        for side in (ours_, bare_):
            side.end()
    ours_.cpu -= ours_.said["ready"]["cpu"]
    return {"ours": ours_, "bare": bare_}


def pairs(done: dict[str, Side]) -> list[float]:
    """Return ours over bare for each group of steps after the first step."""
    cuts = {name: side.told[::GROUP] for name, side in done.items()}
    spans = {name: [b - a for a, b in itertools.pairwise(at)] for name, at in cuts.items()}
    return [a / b for a, b in zip(spans["ours"], spans["bare"], strict=True)]


def compare(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Make base and rows, run both in turns, and return the claim."""
    base, rows, plan = scratch / "base", scratch / "rows.jsonl", scratch / "plan.json"
    with child("make", base, options.hidden, options.layers, home=scratch) as process:
        assert process.wait() == 0, "no base was made"
    made = rows_of(options.steps * LORA.batch)
    rows.write_bytes(encode_rows(made))
    weights = weights_digest({path.name: sha256(path.read_bytes()) for path in base.glob("*.safetensors")})
    job = TrainPlan(1, weights, sha256(rows.read_bytes()), len(made), LORA, seed=1, threads=1)
    plan.write_text(json.dumps(job.to_json()))
    ordered = scratch / "ordered.jsonl"
    ordered.write_bytes(encode_rows([made[at] for at in batch_order(lengths(base, rows, scratch), LORA.batch, 1, 0)]))
    inputs = {"ours": [plan, base, rows], "bare": [base, ordered]}
    rounds = []
    for number in range(options.rounds):
        folder = scratch / f"round{number}"
        folder.mkdir()
        rounds.append(race(folder, inputs, options.slice, ("bare", "ours")[number % 2]))
        for name, side in rounds[-1].items():
            gaps = [b - a for a, b in itertools.pairwise(side.told)]
            print(
                f"round {number + 1}, {name}: wall {side.spent:.1f} s, processor {side.cpu:.1f} s, "
                f"first step after {side.told[0]:.1f} s, a step {statistics.median(gaps):.3f} s, "
                f"load {os.getloadavg()[0]:.1f}"
            )
    with child("own", plan, base, rows, scratch / "own", home=scratch) as process:
        assert process.stdout is not None
        mine = json.loads(process.stdout.read().splitlines()[-1])
    return claim(rounds, mine, options)


def claim(rounds: list[dict[str, Side]], mine: dict[str, Any], options: argparse.Namespace) -> dict[str, object]:
    """Return what was found, beside what is promised."""
    ratio = {
        what: statistics.median(getattr(r["ours"], what) / getattr(r["bare"], what) for r in rounds)
        for what in ("spent", "cpu")
    }
    paired = sorted(value for r in rounds for value in pairs(r))
    peer = statistics.median(r["bare"].spent for r in rounds)
    trained = statistics.median(r["bare"].told[-1] - r["bare"].told[0] for r in rounds)
    first = statistics.median(r["ours"].told[0] for r in rounds)
    parent = statistics.median(r["ours"].said["adapter"]["parent"] for r in rounds)
    same = len({side.said["adapter"]["digest"] for r in rounds for side in r.values()}) == 1
    step = trained / (options.steps - 1)
    meets = {
        "wall": ratio["spent"] <= WALL_GOAL,
        "own_step": 1000 * mine["step"] <= STEP_GOAL_MS,
        "own_job": mine["job"] + parent <= JOB_GOAL,
        "first_step": first <= FIRST_GOAL,
        "size": trained >= 120 and step >= 0.3,
    }
    return {
        "claim": "our trainer's wall over a bare TRL script with the same updates",
        "value": round(ratio["spent"], 4),
        "goal": WALL_GOAL,
        "holds": same and all(meets.values()),
        "meets": meets,
        "peer": {"name": "bare TRL", "value": round(peer, 1)},
        "processor_ratio": round(ratio["cpu"], 4),
        "paired_step_ratio": {
            "median": round(statistics.median(paired), 4),
            "quartiles": [round(paired[len(paired) // 4], 4), round(paired[3 * len(paired) // 4], 4)],
            "pairs": len(paired),
        },
        "same_adapter": same,
        "step_seconds": round(step, 3),
        "trained_seconds": round(trained, 1),
        "first_step_seconds": round(first, 2),
        "own_ms_a_step": round(1000 * mine["step"], 3),
        "own_seconds_a_job": round(mine["job"] + parent, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def lengths(base: Path, rows: Path, home: Path) -> list[int]:
    """Return the rows' lengths in tokens, counted by a child: the order of rows follows from them."""
    with child("count", base, rows, home=home) as process:
        assert process.stdout is not None
        counts: list[int] = json.loads(process.stdout.read().splitlines()[-1])
    return counts


def count(base: Path, rows: Path) -> None:
    """Print the lengths as the trainer counts them."""
    import transformers  # noqa: PLC0415

    from fleetssd.adapters.backends.rows import encode  # noqa: PLC0415

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    encoded = encode(tokenizer, decode_rows(rows.read_bytes()), LORA.max_length, 512)
    print(json.dumps([len(row["input_ids"]) for row in encoded.rows]))


VERBS: dict[str, Callable[..., None]] = {"bare": bare, "ours": ours, "own": own, "count": count}


def main() -> None:
    """Compare, and print the claim as one JSON object, last; the verbs are for this script's own children."""
    verb, *given = [*sys.argv[1:], ""]
    if verb == "make":
        return make_base(Path(given[0]), int(given[1]), int(given[2]))
    if verb in VERBS:
        return VERBS[verb](*map(Path, given[:-1]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a run (default 400)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (default 2)")
    parser.add_argument("--slice", type=float, default=2.0, help="seconds of a turn (default 2)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model (default 256)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the model (default 8)")
    parser.add_argument("--short", action="store_true", help="a few small steps, to see that it runs")
    options = parser.parse_args()
    if options.short:
        options.steps, options.rounds, options.hidden, options.layers = 24, 1, 64, 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options, Path(folder))))
    return None


if __name__ == "__main__":
    main()
