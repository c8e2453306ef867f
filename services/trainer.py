"""The trainer process: one plan in, one adapter and its result out. It sees no database, no token and no network."""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetssd import files, training
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Transient


def main(argv: list[str] | None = None) -> int:
    """Run a verb; progress and errors go to stdout as JSON lines.

    Exit codes: 0 done, 75 stopped with a checkpoint (start it again), 78 misconfigured, 1 failed.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except FleetError as error:
        _say(event="error", kind=type(error).__name__, message=error.message, hint=error.hint)
        return error.exit_code
    except BrokenPipeError:
        # Whoever listened is gone. Silence the interpreter's last flush and leave the checkpoint to the next start.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Transient.exit_code
    except Exception as error:
        if not _disk_is_full(error):
            raise
        hint = "Make room in data_dir; the same night goes on from its last whole checkpoint."
        _say(event="error", kind="Misconfigured", message="the disk is full: nothing was published", hint=hint)
        return Misconfigured.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    train = verbs.add_parser("train", help="train one LoRA from JOB/plan.json and JOB/rows.jsonl")
    train.add_argument("--job", type=Path, required=True, help="folder of the run; gets adapter/ and result.json")
    train.add_argument("--base", type=Path, required=True, help="folder of the base: config, safetensors, tokenizer")
    train.set_defaults(run=_train)
    probe = verbs.add_parser("probe", help="say which accelerator and which training packages this Python has")
    probe.set_defaults(run=_probe)
    base = verbs.add_parser("base", help="make the demonstration's base model from nothing")
    base.add_argument("--out", type=Path, required=True, help="folder to write")
    base.add_argument("--seed", type=int, default=0, help="seed of its corpus and weights (default 0)")
    base.set_defaults(run=_base)
    return parser


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_WORDS = re.compile(
    r"os error (?:28|27|122)\b|No space left|File too large|file write failed|PytorchStreamWriter"
)
"""How Rust's and PyTorch's writers, which raise no OSError, say the same."""


def _disk_is_full(error: BaseException | None) -> bool:
    """Tell whether a failure, or what it was raised from, is a write that found no room."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _NO_ROOM) or _NO_ROOM_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _train(arguments: argparse.Namespace) -> None:
    stopped = _stop_on_sigterm()
    job, base = arguments.job.resolve(), arguments.base.resolve()
    plan, rows = _read(job)
    with (job / "lock").open("w") as lock:
        _take(lock)
        _expect("base", plan.base_digest, _weights_digest(base))
        from fleetssd.adapters import backends  # noqa: PLC0415  its first call loads torch

        result = backends.train(plan, rows, base=base, out=job, on_step=_say_step, stopped=stopped)
        files.write(job / "result.json", json.dumps(result.to_json(), allow_nan=False, sort_keys=True))
    _say(event="done", adapter=result.adapter_digest, steps=result.steps, seconds=result.seconds)


def _probe(_: argparse.Namespace) -> None:
    from fleetssd.adapters.backends import probing  # noqa: PLC0415  loads torch

    _say(event="found", **probing.probe())


def _base(arguments: argparse.Namespace) -> None:
    from fleetssd.toy import model  # noqa: PLC0415  loads torch

    base = model.build_base(arguments.out, arguments.seed, _say_step)
    _say(event="done", out=str(base.hf))


def _stop_on_sigterm() -> Callable[[], bool]:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    return lambda: bool(received)


def _read(job: Path) -> tuple[training.TrainPlan, tuple[training.Row, ...]]:
    try:
        plan = training.TrainPlan.from_json(json.loads((job / "plan.json").read_text(encoding="utf-8")))
        data = (job / "rows.jsonl").read_bytes()
    except FileNotFoundError as error:
        raise Misconfigured(f"no {error.filename}", hint="--job names a folder with plan.json, rows.jsonl.") from None
    except ValueError as error:
        raise Corrupt(f"{job / 'plan.json'} is not JSON: {error}") from None
    _expect("rows", plan.rows_digest, hashlib.sha256(data).hexdigest())
    rows = training.decode_rows(data)
    if len(rows) != plan.rows:
        raise Corrupt(f"{len(rows)} rows where the plan says {plan.rows}")
    return plan, rows


def _take(lock: Any) -> None:
    """Take the run's lock, so that a restart never trains beside a run that is still closing."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Transient("this run is being trained by another process", hint="Wait for it to end.") from None


def _weights_digest(base: Path) -> str:
    digests = {}
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return training.weights_digest(digests)


def _expect(what: str, planned: str, found: str) -> None:
    if planned != found:
        raise Corrupt(f"{what} digest is {found[:12]}, the plan says {planned[:12]}", hint="Freeze a new plan.")


def _say_step(step: int, steps: int, loss: float) -> None:
    _say(event="step", step=step, steps=steps, loss=loss)


def _say(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # all is on disk; tearing torch and arrow down would take a second
