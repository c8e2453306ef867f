"""Process 1: one fork a job, as long as the place is clean after each."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import shutil
import signal
import sys
from typing import Any

from . import confinement, fork, job, place, script, watch, wire
from .kept import Kept

_RESULT_BYTES = 1 << 16  # what a pipe holds


def main() -> None:
    """Read the limits, say hello, then run job after job until stdin ends or the place is no longer clean."""
    if os.getpid() != 1:  # `kill(-1)` would reach everything that this user has
        raise SystemExit("the zygote is not process 1 of a namespace of its own")
    confinement.dumpable(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asks, answers = confinement.empty_stdin()
    limits = wire.receive(asks)
    if limits is None:
        return
    if code := limits.pop("filter", ""):
        confinement.shield(bytes.fromhex(code))
    lease = limits.pop("lease_seconds", None)
    limits["processes"] = confinement.calibrate(limits)
    inodes = sum(len(folders) + len(names) for _, folders, names in os.walk(place.TREE))
    limits["inodes"] = inodes + limits["disk_bytes"] // place.INODE_BYTES
    os.umask(0)  # a job may run under another uid, and the folder that it works in is its own
    confinement.limit_all(limits)
    _prepare()
    wire.send(answers, {"ready": True, "processes": limits["processes"]})
    kept, clean = Kept(), _state()
    while (asked := wire.receive(asks, lease)) is not None:
        verdict = _run(asked, limits, kept)
        verdict["retire"] = not place.tidy(inodes + place.MAX_INODES) or _state() != clean
        wire.send(answers, verdict)
        if verdict["retire"]:
            return


def _state() -> tuple[object, ...]:
    """Return what a run of the same uid may change for those after it, and nobody wipes."""
    return confinement.standing(), place.attributes()


def _prepare() -> None:
    """Import what tests import most, and hide this program's own modules: a job may have some of the same name."""
    for name in ("collections", "dataclasses", "datetime", "decimal", "itertools", "random", "re", "typing"):
        importlib.import_module(name)
    if sys.prefix == place.ENVIRONMENT:
        with contextlib.suppress(Exception):
            importlib.import_module("pytest")
    package = __package__ or ""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    sys.path.remove(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
    gc.collect()
    gc.freeze()  # children then share these pages instead of copying them at their first collection


def _run(asked: dict[str, Any], limits: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """Fork, watch, kill what is left, and grade."""
    words = script.arguments(asked["command"])
    program = script.INTERPRETER.get(asked["command"][0], asked["command"][0])
    if words is None and "/" not in program and shutil.which(program) is None:
        return _verdict(fault=True, detail=f"{program}: no such command in the sandbox")
    os.mkdir(place.WORK)  # noqa: PTH102
    out_r, out_w = os.pipe()
    result_r, result_w = os.pipe()
    token = b"." + os.urandom(16)  # the first byte keeps it apart from what a run says otherwise
    code = kept.lend(asked["digest"]) if "digest" in asked else None
    random.seed()  # no two runs draw the same
    child = fork.fork()
    if child == 0:
        job.become(asked, limits, words, token, (out_w, result_w), code)
    os.close(out_w)
    os.close(result_w)
    try:
        ended, tail = watch.watch(child, out_r, limits)
        status = watch.kill_all(child)
        result = os.read(result_r, _RESULT_BYTES)  # nobody is left who could write
    finally:
        os.close(out_r)
        os.close(result_r)
    if code is not None:
        kept.take_back(code)
    elif "digest" in asked:
        result = _keep(result, asked["digest"], kept)
    if result.startswith(script.FAULT + token):  # without it, it is the job's own word
        return _verdict(fault=True, detail=result[1 + len(token) :].decode("utf-8", "replace"))
    failure = ended or _failure(status, limits)
    if not failure and words is not None and result != token:
        failure = "the script ended before its last line"
    if result.startswith(script.REPORT):
        tail += result[1:]
    text = tail.decode("utf-8", "replace").strip()[-watch.TAIL :]
    return _verdict(passed=not failure, detail=f"{failure}\n{text}".strip() if failure else "")


def _keep(result: bytes, digest: str, kept: Kept) -> bytes:
    """Keep the code that a run compiled and return what it said after it.

    It was written before a line of the job ran, so nothing that the job writes can stand before it; and it serves
    only runs of the very same script.
    """
    if not result.startswith(script.COMPILED):
        return result
    end = 5 + int.from_bytes(result[1:5], "big")
    if 5 < end <= len(result):
        kept.put(digest, result[5:end])
    return result[end:]


def _failure(status: int, limits: dict[str, Any]) -> str:
    """Return a wait status in words; nothing for exit status 0."""
    if not os.WIFSIGNALED(status):
        code = os.WEXITSTATUS(status)
        return f"exit status {code}" if code else ""
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return f"used more than {limits['cpu_seconds']} s of processor time"
    return f"killed: {signal.strsignal(number) or number}"


def _verdict(*, passed: bool = False, fault: bool = False, detail: str = "") -> dict[str, Any]:
    return {"passed": passed, "fault": fault, "detail": detail}
