"""Run the trainer's process again and again, each time in trouble at a named moment.

The training stack is imported once; each line on stdin is a job for a fork of this process: the trainer's arguments and
the trouble. Moments are Python's own audit events (file opened, folder made, file renamed), a gradient that is ready
and a step that is reported, so the trainer runs as it is and the moment is exact.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  the stack, paid for once
import peft  # noqa: F401
import torch
import transformers
import trl  # noqa: F401

from services import trainer


def trouble(kind: str) -> Callable[[], None]:
    """Return what happens at the moment."""
    if kind == "full":
        return _fill_the_disk
    if kind == "explode":
        return _explode
    number = signal.Signals[kind]
    return lambda: os.kill(os.getpid(), number)


def _fill_the_disk() -> None:
    with Path("filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def _explode() -> None:
    compute = transformers.Trainer.compute_loss

    def larger(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = compute(self, *arguments, **options)
        return (loss[0] * 100.0, *loss[1:]) if isinstance(loss, tuple) else loss * 100.0

    transformers.Trainer.compute_loss = larger


def arm(moment: str, strike: Callable[[], None]) -> None:
    """Strike once, at the first audit event or reported step whose words end so."""
    armed = [True]

    def look(words: str) -> None:
        if armed and words.endswith(moment):
            armed.clear()
            strike()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not armed or event not in ("open", "os.mkdir", "os.rename", "shutil.rmtree"):
            return
        if event == "open" and not (isinstance(arguments[1], str) and {*"wx"} & {*arguments[1]}):
            return
        look(f"{event} {arguments[0]}")

    backward = torch.Tensor.backward
    counted = [0]

    def halfway(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
        backward(self, *arguments, **options)
        counted[0] += 1
        look(f"backward {counted[0]}")

    torch.Tensor.backward = halfway  # type: ignore[assignment,method-assign]
    say = trainer._say_step

    def say_step(step: int, steps: int, loss: float) -> None:
        say(step, steps, loss)
        look(f"step {step}")

    trainer._say_step = say_step
    sys.addaudithook(hook)


def one(job: dict[str, Any]) -> None:
    """Be the trainer, in trouble."""
    os.chdir(job["folder"])
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
    if job.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    if job.get("moment"):
        arm(job["moment"], trouble(job["trouble"]))
    code = 1
    try:
        code = trainer.main(["train", "--job", job["folder"], "--base", job["base"]])
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            one(json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code}), flush=True)  # noqa: T201
