"""Port Sandbox by bubblewrap: namespaces prepared once, a fork for every run.

Every worker is one long-lived `bwrap` with the program of `bubblewrap_zygote.py` inside: no network, no home, no
inherited environment or descriptors, a read-only system, a small tmpfs, private /proc, /dev, ipc, uts and process
namespaces. A run is a fork in there: own session, rlimits on processor time, memory, processes, file size and
descriptors, wall clock, output cap; afterwards everything it left is killed and wiped. A worker that cannot be proven
clean is replaced. Started by root, runs get a uid of their own; started by a user, a user namespace.

Not covered:
- Code under test and its Python test share one process (for speed), so code that is written to cheat can: patch
  builtins or the standard library, return objects that equal everything, or find the token that says "the script
  reached its end" by walking frames. Leaving early (`os._exit(0)`, `sys.exit(0)`) and rewriting the test file do not
  pass. For other commands than Python only the exit status counts, so leaving early with 0 does pass there.
- Memory is limited a process, not in sum (no cgroup): at worst processes times memory; the tmpfs comes on top.
- No seccomp filter: the kernel's whole system call surface is in reach. This is no shield against kernel exploits.
- Timing and load side channels; the read-only system (/usr and the base interpreter) can be read.
- Started by a user, a run may lower the zygote's own rlimits (same uid) and so end it: the job is then a fault,
  which counts against the candidate.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from fleetssd.errors import Misconfigured
from fleetssd.ports import Grade, Job, Progress

_ZYGOTE = Path(__file__).with_name("bubblewrap_zygote.py")
_GRACE_SECONDS = 30.0  # beyond the run's own wall clock: kill, wipe and answer on a busy machine
_START_SECONDS = 60.0
_MAX_REPLY = 1 << 20
_FIRST_UID = 0x7000_0000  # far above every real user, so that process limits count a worker's own runs only
_NO_LIMIT = "the kernel does not limit the number of processes here"
_INSTALL = "Install it: apt-get install bubblewrap"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `memory_bytes` is address space a process; `disk_bytes` is the tmpfs of a worker."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    processes: int = 16
    open_files: int = 64
    file_bytes: int = 16 << 20
    disk_bytes: int = 64 << 20
    output_bytes: int = 1 << 20


class BubblewrapSandbox:
    """Grades jobs in `workers` sandboxes at once. Thread-safe; use it as a context manager or call `close`.

    Raises Misconfigured at construction where bubblewrap is missing or may not make namespaces.
    """

    def __init__(self, limits: Limits | None = None, *, workers: int = 2) -> None:
        self._limits = limits or Limits()
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise Misconfigured("bubblewrap (bwrap) is not installed, and nothing runs unsandboxed", hint=_INSTALL)
        self._bwrap = bwrap
        self._closed = False
        self._local = threading.local()
        self._lock = threading.Lock()
        self._zygotes: set[_Zygote] = set()
        # The workers' threads live as long as the sandbox: the kernel ends a bwrap with the thread
        # that started it.
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        try:
            self._shape = self._pool.submit(self._find_shape).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Run every job, in parallel, and return the grades in order. A sandbox that dies twice on a job is a fault."""
        grades = []
        for grade in self._pool.map(self._grade, jobs):
            grades.append(grade)
            progress(len(grades), len(jobs), "sandbox")
        return grades

    def close(self) -> None:
        """End the sandbox and everything in it; jobs under way end as faults, jobs not begun are cancelled."""
        with self._lock:
            self._closed, zygotes = True, list(self._zygotes)
        for zygote in zygotes:
            zygote.kill()
        self._pool.shutdown(cancel_futures=True)
        for zygote in zygotes:
            zygote.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _grade(self, job: Job) -> Grade:
        deaths = []
        for _ in range(2):
            try:
                reply = self._zygote().ask({"files": job.files, "command": job.command}, self._limits.wall_seconds)
            except _DeadError as death:
                deaths.append(str(death))
                self._discard()
                continue
            if reply["retire"]:
                self._discard()
            return Grade(job.id, bool(reply["passed"]), bool(reply["fault"]), str(reply["detail"]))
        return Grade(job.id, passed=False, fault=True, detail=f"the sandbox died twice: {deaths[-1]}")

    def _zygote(self) -> _Zygote:
        """Return this thread's zygote, started where there is none."""
        found: _Zygote | None = getattr(self._local, "zygote", None)
        return found or self._keep(_start(self._bwrap, self._shape, self._limits))

    def _keep(self, zygote: _Zygote) -> _Zygote:
        with self._lock:
            if not self._closed:
                self._zygotes.add(zygote)
                self._local.zygote = zygote
                return zygote
        zygote.release()
        raise _DeadError("the sandbox is closed")

    def _discard(self) -> None:
        """Drop this thread's zygote, if it has one."""
        zygote: _Zygote | None = getattr(self._local, "zygote", None)
        self._local.zygote = None
        if zygote is not None:
            with self._lock:
                self._zygotes.discard(zygote)
            zygote.release()

    def _find_shape(self) -> _Shape:
        """Try the ways this machine may allow, the tightest first, and keep the first that starts."""
        failures = []
        for shape in _shapes():
            try:
                self._keep(_start(self._bwrap, shape, self._limits))
            except _DeadError as death:
                failures.append(str(death))
            else:
                return shape
        raise Misconfigured(f"bubblewrap cannot make a sandbox here: {failures[0]}", hint=_hint(failures))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the sandbox is made: by root with a uid for the runs or in a user namespace, with a private /proc or none."""

    as_root: bool
    proc: bool


class _DeadError(Exception):
    """The zygote ended, answered nonsense or did not answer in time."""


class _Zygote:
    """One bwrap process and its two pipes; used by one thread at a time."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={},
            start_new_session=True,
        )

    def ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a message and return the answer, within `seconds` and some grace."""
        body = json.dumps(message).encode()
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        data = memoryview(struct.pack(">I", len(body)) + body)
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise _DeadError(self._last_words()) from error
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        size = struct.unpack(">I", self._exactly(4, deadline))[0]
        if size > _MAX_REPLY:
            raise _DeadError(f"an answer of {size} bytes")
        reply = json.loads(self._exactly(size, deadline))
        if not isinstance(reply, dict):
            raise _DeadError("an answer that is no object")
        return reply

    def kill(self) -> None:
        """Kill bwrap, and with it (die-with-parent, process 1) everything inside. Any thread may do this."""
        self._process.kill()

    def release(self) -> None:
        """Kill, reap and close the pipes; only the thread that uses this zygote, or nobody, may do this."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _exactly(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101  it was opened as a pipe
        parts = b""
        while len(parts) < size:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            part = os.read(self._process.stdout.fileno(), size - len(parts)) if ready else b""
            if not part:
                raise _DeadError(self._last_words() if ready else "no answer in time")
            parts += part
        return parts

    def _last_words(self) -> str:
        """Return what bwrap wrote to stderr, once it is dead."""
        self._process.kill()
        self._process.wait()
        said = self._process.stderr.read(4096) if self._process.stderr else b""
        return (said or b"").decode("utf-8", "replace").strip() or "it ended without a word"


def _start(bwrap: str, shape: _Shape, limits: Limits) -> _Zygote:
    """Start a zygote and wait for its hello; Misconfigured where processes cannot be limited."""
    zygote = _Zygote([bwrap, *_arguments(shape, limits)])
    uid = _FIRST_UID + secrets.randbelow(1 << 20) if shape.as_root else None
    try:
        hello = zygote.ask({**asdict(limits), "uid": uid}, _START_SECONDS)
    except _DeadError:
        zygote.release()
        raise
    if not hello["processes"]:
        zygote.release()
        raise _DeadError(_NO_LIMIT)
    return zygote


def _shapes() -> Iterator[_Shape]:
    for as_root in (True, False) if os.geteuid() == 0 else (False,):
        yield _Shape(as_root, proc=True)
        yield _Shape(as_root, proc=False)  # in a container whose own /proc is masked, the kernel refuses a new one


def _arguments(shape: _Shape, limits: Limits) -> list[str]:
    """Return bwrap's arguments: namespaces, then mounts in order, then the interpreter."""
    prefix = Path(sys.base_prefix).resolve()
    python = _interpreter(prefix)
    namespaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    privileges = ["--cap-drop", "ALL"]
    if shape.as_root:  # for the zygote alone: to change into the runs' uid, to kill them and to wipe their files
        for capability in ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE"):
            privileges += ["--cap-add", f"CAP_{capability}"]
    else:
        namespaces += ["--unshare-user", "--disable-userns"]
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": "/tmp/work",  # noqa: S108  the run's own folder in the sandbox
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the same answer gets the same grade on every worker
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return [
        *namespaces,
        *("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--clearenv"),
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *privileges,
        *_system(prefix),
        *(("--proc", "/proc") if shape.proc else ()),
        *("--dev", "/dev", "--ro-bind", str(_ZYGOTE), "/zygote.py"),
        *("--size", str(limits.disk_bytes), "--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108
        *("--size", str(limits.disk_bytes // 4), "--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"),
        *(str(python), "-s", "-P", "-B", "/zygote.py"),
    ]


def _system(prefix: Path) -> Iterator[str]:
    """Bind what a program needs to start, read-only: /usr, the classic links to it, and the base interpreter."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--perms", "0755", "--dir", "/etc")
    yield from ("--ro-bind-try", "/etc/alternatives", "/etc/alternatives")
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    if not prefix.is_relative_to("/usr"):
        for parent in reversed(prefix.parents[:-1]):  # named, so that the runs' uid may pass through them
            yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(prefix), str(prefix))


def _interpreter(prefix: Path) -> Path:
    """Return the base interpreter, never a virtual environment's: its packages are none of a run's business."""
    exact = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return exact if exact.exists() else prefix / "bin" / "python3"


def _hint(failures: list[str]) -> str:
    """Say which switch of the machine is in the way."""
    if any("nknown option" in failure for failure in failures):
        return "bubblewrap 0.8 or newer is needed."
    if all(_NO_LIMIT in failure for failure in failures):
        return "Run fleetssd as an ordinary user."
    for name, bad, good in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "15000"),
    ):
        switch = Path("/proc/sys", name)
        if switch.exists() and switch.read_text(encoding="ascii").strip() == bad:
            return f"As root: sysctl -w {name.replace('/', '.')}={good}"
    return (
        "User namespaces are refused, most likely by a container's seccomp or AppArmor profile; give the container "
        "CAP_SYS_ADMIN, or run it with --security-opt seccomp=unconfined."
    )
