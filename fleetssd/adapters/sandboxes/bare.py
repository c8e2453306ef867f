"""BareSandbox: no sandbox. A process of its own for every run, with resource limits and a wall clock, and nothing else.

What runs has this user's rights: it can read every file that we can, reach the network, signal our processes and
leave some of its own behind. Memory is limited for each process and not for all together, and the number of
processes and the disk are not limited at all, since those limits would count what else this user has.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from fleetssd.adapters.sandboxes.confinement import interpreter
from fleetssd.cores import leave_one
from fleetssd.ports import Grade, Job, Progress
from fleetssd.surroundings import Limits, Surroundings

_ONE_RUN = Path(__file__).with_name("one_run.py")
_TAIL = 2_000
_PYTHON = ("python", "python3")


class BareSandbox:
    """Grades `workers` jobs at once with this user's rights. Thread-safe; use it as a context manager or `close` it."""

    def __init__(self, limits: Limits | None = None, *, workers: int = 2) -> None:
        self._limits = limits or Limits()
        self._pool = ThreadPoolExecutor(workers, "bare", leave_one, (workers,))

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Run every job, in parallel, and return the grades in order."""
        grades = []
        for grade in self._pool.map(self._grade, jobs):
            grades.append(grade)
            progress(len(grades), len(jobs), "no sandbox")
        return grades

    def close(self) -> None:
        """Wait for the runs under way and drop the rest."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _grade(self, job: Job) -> Grade:
        limits = job.surroundings.limits or self._limits
        with tempfile.TemporaryDirectory(prefix="fleetssd-run-", ignore_cleanup_errors=True) as folder:
            environment = _environment(folder, job.surroundings)
            program = job.command[0]
            if program not in _PYTHON and shutil.which(program, path=environment["PATH"]) is None:
                return Grade(job.id, passed=False, fault=True, detail=f"{program}: no such command")
            token = "." + secrets.token_hex(16)
            command = [_python(job.surroundings), "-s", "-P", "-B", str(_ONE_RUN)]
            run = _Run(command, environment, _told(job, limits, folder, token))
            return run.graded(job.id, limits, token, script=_is_script(job.command))


class _Run:
    """One process with its pipes."""

    def __init__(self, command: list[str], environment: dict[str, str], told: dict[str, Any]) -> None:
        self._said, result = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(result)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=environment,
            pass_fds=(result,),
        )
        os.close(result)
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            body = memoryview(json.dumps(told).encode())
            while body:
                body = body[stdin.write(body) or 0 :]

    def graded(self, name: str, limits: Limits, token: str, *, script: bool) -> Grade:
        """Wait for the end or a limit, kill the group, and say how it went."""
        assert self._process.stdout is not None  # noqa: S101  it was opened as a pipe
        try:
            stopped, tail = self._watch(self._process.stdout.fileno(), limits)
            self._kill()
            status = self._process.wait()
            result = self._result()
        finally:
            self._kill()
            os.close(self._said)
            self._process.stdout.close()
        if result.startswith(f"!{token}"):
            return Grade(name, passed=False, fault=True, detail=result[1 + len(token) :])
        failure = stopped or _failure(status)
        if not failure and script and result != token:
            failure = "the script ended before its last line"
        report = result[1:] if result.startswith("?") else ""
        text = (tail.decode("utf-8", "replace") + report).strip()[-_TAIL:]
        return Grade(name, passed=not failure, fault=False, detail=f"{failure}\n{text}".strip() if failure else "")

    def _result(self) -> str:
        """Return what the run said of itself; a process that it left behind may hold the pipe open."""
        ready, _, _ = select.select([self._said], [], [], 0)
        return os.read(self._said, 4 * _TAIL).decode("utf-8", "replace") if ready else ""

    def _watch(self, output: int, limits: Limits) -> tuple[str, bytes]:
        deadline, total, tail = time.monotonic() + limits.wall_seconds, 0, b""
        ended = os.pidfd_open(self._process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([output, ended], [], [], left)
                chunk = os.read(output, 65_536) if output in ready else b""
                tail, total = (tail + chunk)[-4 * _TAIL :], total + len(chunk)
                if total > limits.output_bytes:
                    return f"wrote more than {limits.output_bytes} bytes of output", tail
                if ended in ready and not chunk:
                    return "", tail
                if not chunk and output in ready:  # it closed its output, and goes on
                    select.select([ended], [], [], max(0.0, deadline - time.monotonic()))
            return f"took longer than {limits.wall_seconds} s", tail
        finally:
            os.close(ended)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session, once it has begun
        if self._process.poll() is None:
            self._process.kill()


def _is_script(command: Sequence[str]) -> bool:
    """Return whether a command is Python's own script or module, which says that it reached its end."""
    return command[0] in _PYTHON and len(command) > 1 and (command[1] == "-m" or not command[1].startswith("-"))


def _failure(status: int) -> str:
    if status >= 0:
        return f"exit status {status}" if status else ""
    return f"killed: {signal.strsignal(-status) or -status}"


def _told(job: Job, limits: Limits, folder: str, token: str) -> dict[str, Any]:
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return {
        "job": {"files": job.files, "command": job.command, "removed": job.removed, "executable": job.executable},
        "limits": {**asdict(limits), "processes": most, "uid": None},
        "tree": str(job.surroundings.tree or ""),
        "folder": folder,
        "token": token,
    }


def _environment(folder: str, around: Surroundings) -> dict[str, str]:
    own = around.environment
    return {
        "PATH": ":".join([*([f"{own}/bin"] if own else []), str(Path(_base()).parent), "/usr/bin", "/bin"]),
        "HOME": folder,
        "TMPDIR": folder,
        **({"VIRTUAL_ENV": str(own)} if own else {}),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _python(around: Surroundings) -> str:
    own = around.environment / "bin" / "python" if around.environment else None
    return str(own) if own is not None and os.path.lexists(own) else _base()


def _base() -> str:
    return str(interpreter(Path(sys.base_prefix).resolve()))
