"""The program inside the sandbox: forks one child a job, watches it, and alone says how it ended.

It is process 1 of its namespaces, uses the standard library only and is never imported by fleetssd: bubblewrap
binds this file read-only and the base interpreter runs it. It talks in length-prefixed JSON over stdin and stdout.

Why process 1: the kernel shields it from every signal of the processes it watches that it has no handler for (so
Python's own for SIGINT goes); orphans come to it; and `kill(-1)` reaches whatever a job left behind, daemons
included. Why not dumpable: a job of the same uid may then neither trace it nor read its memory through /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import linecache
import os
import resource
import runpy
import select
import shutil
import signal
import site
import struct
import sys
import sysconfig
import time
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

WORK = "/tmp/work"  # noqa: S108  a tmpfs of our own
TREE, ENVIRONMENT = "/tree", "/env"  # read-only, where a job has such surroundings
WRITABLE = ("/tmp", "/dev/shm")  # noqa: S108
TAIL = 2_000
MAX_INODES = 5_000  # beyond this, leaving is cheaper than tidying up
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
RESULT_FD = 3
LOOK_SECONDS = 0.05  # between looks at the memory of all processes of a run
PAGE = resource.getpagesize()
_INTERPRETER = dict.fromkeys(("python", "python3"), sys.executable)  # a system may have neither name


def main() -> None:
    """Read the limits, say hello, then run job after job until stdin ends or the place is no longer clean."""
    if os.getpid() != 1:  # `kill(-1)` would reach everything that this user has
        raise SystemExit("the zygote is not process 1 of a namespace of its own")
    _dumpable(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limits = _receive()
    if limits is None:
        return
    if code := limits.pop("filter", ""):
        _shield(bytes.fromhex(code))
    lease = limits.pop("lease_seconds", None)
    limits["processes"] = _calibrate(limits)
    for name in ("collections", "dataclasses", "datetime", "decimal", "itertools", "random", "re", "typing"):
        importlib.import_module(name)  # what tests import most is then there before the fork
    if sys.prefix == ENVIRONMENT:
        with contextlib.suppress(Exception):
            importlib.import_module("pytest")
    inodes = MAX_INODES + sum(len(folders) + len(names) for _, folders, names in os.walk(TREE))
    gc.collect()
    gc.freeze()  # children then share these pages instead of copying them at their first collection
    _send({"ready": True, "processes": limits["processes"]})
    while (job := _receive(lease)) is not None:
        verdict = _run(job, limits)
        verdict["retire"] = not _tidy(inodes)
        _send(verdict)
        if verdict["retire"]:
            return


def _run(job: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Fork, watch, kill what is left, and grade."""
    python = _python_arguments(job["command"])
    program = _INTERPRETER.get(job["command"][0], job["command"][0])
    if python is None and "/" not in program and shutil.which(program) is None:
        return _verdict(fault=True, detail=f"{program}: no such command in the sandbox")
    os.mkdir(WORK)  # noqa: PTH102  every microsecond counts here
    os.chmod(WORK, 0o777)  # noqa: PTH101,S103  the job may run under another uid
    out_r, out_w = os.pipe()
    result_r, result_w = os.pipe()
    token = b"." + os.urandom(16)  # the first byte keeps it apart from the word of a fault, which starts with "!"
    child = os.fork()
    if child == 0:
        _child(job, limits, python, token, (out_w, result_w))
    os.close(out_w)
    os.close(result_w)
    try:
        ended, tail, result = _watch(child, out_r, result_r, limits)
        status = _kill_all(child)
    finally:
        os.close(out_r)
        os.close(result_r)
    text = tail.decode("utf-8", "replace").strip()[-TAIL:]
    if result.startswith(b"!"):
        return _verdict(fault=True, detail=result[1:].decode("utf-8", "replace"))
    failure = ended or _failure(status, limits)
    if not failure and python is not None and result != token:
        failure = "the script ended before its last line"
    return _verdict(passed=not failure, detail=f"{failure}\n{text}".strip() if failure else "")


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


# --- the watcher's side


def _watch(child: int, out_r: int, result_r: int, limits: dict[str, Any]) -> tuple[str, bytes, bytes]:
    """Wait for the child's end or a limit of time, output or memory; return (why stopped, output's tail, result)."""
    deadline, look = time.monotonic() + limits["wall_seconds"], time.monotonic() + LOOK_SECONDS
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    for each in (pidfd, out_r, result_r):
        os.set_blocking(each, False)
        poll.register(each, select.POLLIN)
    tail, total, result, ended, running = b"", 0, b"", "", True
    try:
        while running and not ended:
            left = min(deadline - time.monotonic(), look - time.monotonic())
            ready = dict(poll.poll(max(0.0, left) * 1000.0))
            running = pidfd not in ready
            while (chunk := _read(out_r)) and total <= limits["output_bytes"]:
                tail, total = (tail + chunk)[-4 * TAIL :], total + len(chunk)
            if total > limits["output_bytes"]:
                ended = f"wrote more than {limits['output_bytes']} bytes of output"
            elif running and time.monotonic() >= deadline:
                ended = f"took longer than {limits['wall_seconds']} s"
            elif running and time.monotonic() >= look:
                look = time.monotonic() + LOOK_SECONDS
                if _held() > limits["memory_bytes"]:
                    ended = f"held more than {limits['memory_bytes']} bytes of memory in all processes"
            result = (result + _read(result_r))[:200]
            for each in (out_r, result_r):
                if ready.get(each, 0) & select.POLLHUP and not ready[each] & select.POLLIN:
                    poll.unregister(each)
    finally:
        os.close(pidfd)
    return ended, tail, result


def _held() -> int:
    """Return the bytes that all processes but this one hold, what a fork shares counted in each; 0 without /proc."""
    pages = 0
    with contextlib.suppress(FileNotFoundError), os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and entry.name != "1":
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
                    resident, shared = Path(entry.path, "statm").read_bytes().split()[1:3]
                    pages += int(resident) - int(shared)
    return pages * PAGE


def _read(descriptor: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, 65_536)
    return b""


def _kill_all(child: int) -> int:
    """Kill every process but ourselves, reap them all and return the child's wait status.

    One `kill(-1)` is enough: the kernel walks the processes under the lock that fork needs, and a process with a
    pending SIGKILL cannot fork.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    status = 0
    while True:
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == child:
            status = ended


def _tidy(inodes: int) -> bool:
    """Empty every writable place; False where that is not certain, and then this zygote must not be used again."""
    try:
        for root in WRITABLE:
            usage = os.statvfs(root)
            if usage.f_files - usage.f_ffree > inodes:
                return False
            with os.scandir(root) as entries:
                for entry in list(entries):
                    remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                    remove(entry.path)
        return not _left_ipc()
    except (OSError, RecursionError):
        return False


def _left_ipc() -> bool:
    """Return whether System V shared memory, semaphores or queues outlived the job: they belong to no process."""
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(FileNotFoundError):  # a sandbox without /proc
            if Path("/proc/sysvipc", kind).read_bytes().count(b"\n") > 1:  # the first line is the table's head
                return True
    return False


def _calibrate(limits: dict[str, Any]) -> int:
    """Return the smallest limit of processes that still lets a job fork, or 0 where the limit has no effect.

    Since Linux 5.14 the count starts at none in a new user namespace; before, it includes the user's other processes.
    """
    if _can_fork(limits, 1):
        return 0
    for processes in (limits["processes"], 1_024, 8_192, 65_536):
        if _can_fork(limits, processes):
            return int(processes)
    return 0


def _can_fork(limits: dict[str, Any], processes: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
            _drop(limits["uid"])
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            os._exit(0)
        except OSError:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    _kill_all(child)
    return status == 0


# --- the job's side, after the fork


def _child(
    job: dict[str, Any],
    limits: dict[str, Any],
    python: list[str] | None,
    token: bytes,
    pipes: tuple[int, int],
) -> NoReturn:
    """Confine this process, write the job's files and become the job."""
    try:
        os.setsid()
        _descriptors(*pipes)
        _limit(limits)
        _drop(limits["uid"])
        _dumpable(1)  # an ordinary process again, which may look at itself through /proc/self
        os.umask(0o022)
        os.chdir(WORK)
        _lay_out(job)
    except BaseException as error:  # noqa: BLE001  nothing of the job has run yet: this is the sandbox's own failure
        os.write(RESULT_FD, f"!the run could not be prepared: {error}".encode()[:200])
        os._exit(125)
    if python is None:
        _execute([_INTERPRETER.get(program := job["command"][0], program), *job["command"][1:]])
    _python(python, dict(job["files"]), token)


def _lay_out(job: dict[str, Any]) -> None:
    """Copy the tree, take away what the job removes, then write its files."""
    _copy(TREE, ".")
    for path in job["removed"]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)  # noqa: PTH108
    for path, content in job["files"]:
        if parent := os.path.dirname(path):  # noqa: PTH120
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103
        if os.path.islink(path):  # noqa: PTH114  a file that takes a link's place is not written where it points to
            os.unlink(path)  # noqa: PTH108
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:  # noqa: PTH123
            file.write(content)
    for path in job["executable"]:
        os.chmod(path, 0o755)  # noqa: PTH101,S103


def _copy(source: str, target: str) -> None:
    """Copy what is in a folder, links as links; a folder that is not there is empty."""
    with contextlib.suppress(FileNotFoundError), os.scandir(source) as entries:
        for entry in entries:
            place = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)  # noqa: PTH115,PTH211
            elif entry.is_dir():
                os.mkdir(place)  # noqa: PTH102
                _copy(entry.path, place)
            else:
                shutil.copy(entry.path, place)


def _descriptors(out_w: int, result_w: int) -> None:
    """Leave the job an empty stdin, its output pipe and, closed on exec, the result pipe; nothing else."""
    null = os.open("/dev/null", os.O_RDONLY)
    high = [os.dup(each) for each in (null, out_w, out_w, result_w)]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target != RESULT_FD)
    os.closerange(RESULT_FD + 1, max(high) + 64)


def _limit(limits: dict[str, Any]) -> None:
    cpu, memory = int(limits["cpu_seconds"]), int(limits["memory_bytes"])
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"], limits["processes"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def _drop(uid: int | None) -> None:
    """Give up root for a uid of our own; where the sandbox was started by a user, there is nothing to give up."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _dumpable(flag: int) -> None:
    if _PRCTL(PR_SET_DUMPABLE, flag, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _shield(code: bytes) -> None:
    """Load a seccomp filter, for this process and all that it forks; where bubblewrap is around us, it has done so."""
    buffer, none = ctypes.create_string_buffer(code, len(code)), ctypes.c_ulong(0)
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    one, mode = ctypes.c_ulong(1), ctypes.c_ulong(2)
    if (
        _PRCTL(PR_SET_NO_NEW_PRIVS, one, none, none, none) != 0
        or _PRCTL(PR_SET_SECCOMP, mode, ctypes.byref(program), none, none) != 0
    ):
        raise OSError("prctl(PR_SET_SECCOMP) failed")


_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


def _execute(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)  # noqa: S606  the job's own command, inside the sandbox
    except OSError as error:
        os.write(2, str(error).encode())
        os._exit(126)


def _python(arguments: list[str], files: dict[str, str], token: bytes) -> NoReturn:
    """Run a script or module in this process, as a new interpreter would; the token says that it reached its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.prefix == ENVIRONMENT:  # what is installed as editable lies in the tree, which was not there at the start
        for place in {sysconfig.get_path(name) for name in ("purelib", "platlib")}:
            site.addsitedir(place)
    status = 1
    try:
        _script(arguments, files)
        status = 0
    except SystemExit as leave:
        if leave.code in (None, 0) and _left_by_test(leave, arguments[0]):
            status = 0
        else:
            os.write(2, f"left by sys.exit({leave.code!r})".encode("utf-8", "replace")[:TAIL])
    except BaseException as error:  # noqa: BLE001  whatever the code under test throws, it only fails the job
        with contextlib.suppress(BaseException):
            error.__traceback__ = _below_us(error.__traceback__)
            os.write(2, "".join(traceback.format_exception(error)).encode("utf-8", "replace")[-TAIL:])
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        if status == 0:
            os.write(RESULT_FD, token)
            os._exit(0)
        os._exit(status)


def _script(arguments: list[str], files: dict[str, str]) -> None:
    if arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        sys.path.insert(0, WORK)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    path = arguments[0]
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(WORK, path).parent))
    # compiled from our copy, so what the code under test does to the file on disk changes nothing
    code = compile(files[path] if path in files else Path(path).read_bytes(), path, "exec", dont_inherit=True)
    if path in files:  # a traceback then quotes our copy too, without looking for the file
        linecache.cache[path] = (len(files[path]), None, files[path].splitlines(keepends=True), path)
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for


def _below_us(step: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without its first frames, which are this program's."""
    while step is not None and step.tb_frame.f_code.co_filename == __file__:
        step = step.tb_next
    return step


def _left_by_test(leave: SystemExit, script: str) -> bool:
    """Return whether `sys.exit` was called by the script or a library, and not from within the code under test.

    What a job can write lies in WRITABLE; code that stands anywhere else was there before it.
    """
    names = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(leave.__traceback__)}
    return all(_was_there(name) for name in names - {script, __file__})


def _was_there(name: str) -> bool:
    written = any(name.startswith(f"{root}/") for root in WRITABLE)
    return name.startswith("<frozen ") or (name.startswith("/") and not written)


def _python_arguments(command: list[str]) -> list[str] | None:
    """Return what follows `python` where it can run in a fork of this interpreter: a script or `-m module`."""
    if command[0] not in _INTERPRETER or len(command) < 2:
        return None
    if command[1] == "-m":
        package = command[2].partition(".")[0] if len(command) > 2 else ""
        return command[1:] if package.isidentifier() and importlib.util.find_spec(package) else None
    return None if command[1].startswith("-") else command[1:]


# --- the wire


def _receive(seconds: float | None = None) -> dict[str, Any] | None:
    """Read one message; None at the end of stdin, or where none comes for so long.

    The other side never sends ahead, so nothing stays buffered.
    """
    if not select.select([0], [], [], seconds)[0]:
        return None
    head = sys.stdin.buffer.read(4)
    return dict(json.loads(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))) if len(head) == 4 else None


def _send(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    data = struct.pack(">I", len(body)) + body
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
