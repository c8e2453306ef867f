"""What a process gives up: descriptors, resources, its user, calls to the kernel."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
from typing import Any

from .watch import kill_all

RESULT_FD = 3
_HIGH = 10
_RLIMITS = 16  # how many kinds of limit Linux has
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38


def descriptors(out_w: int, result_w: int) -> None:
    """Leave the job an empty stdin, its output pipe and, closed on exec, the result pipe; nothing else.

    Stdin is /dev/null since `empty_stdin`; neither pipe is one of the first four descriptors.
    """
    os.dup2(out_w, 1)
    os.dup2(out_w, 2)
    os.dup2(result_w, RESULT_FD, inheritable=False)
    os.closerange(RESULT_FD + 1, max(out_w, result_w) + 64)


def empty_stdin() -> tuple[int, int]:
    """Put /dev/null in the place of stdin and stdout; return what these were, for none but this process."""
    wire = elsewhere(0), elsewhere(1)
    first = os.open("/dev/null", os.O_RDWR)
    null = elsewhere(first)
    os.close(first)
    for target in (0, 1, RESULT_FD):  # the last is taken, so that no pipe of a run gets its number
        os.dup2(null, target, inheritable=target != RESULT_FD)
    os.close(null)
    return wire


def elsewhere(descriptor: int) -> int:
    """Return another descriptor of the same, out of the way of the first ones."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)


def limit_all(limits: dict[str, Any]) -> None:
    """Set what is the same for this process and for all that it starts."""
    for kind, most in (
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (most, most))


def limit(limits: dict[str, Any]) -> None:
    """Set what is counted for one run, and none of it for what is laid out for it."""
    cpu, memory, processes = limits["cpu_seconds"], limits["memory_bytes"], limits["processes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))


def standing() -> tuple[object, ...]:
    """Return what another process of our uid may change of this one, and every fork to come would inherit."""
    limits = [resource.getrlimit(kind) for kind in range(_RLIMITS)]
    return limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0)


def calibrate(limits: dict[str, Any]) -> int:
    """Return the smallest limit of processes that still lets a job fork, or 0 where the limit has no effect.

    Since Linux 5.14 the count starts at none in a new user namespace; before, it includes the user's other processes.
    """
    if _can_fork(limits, 1):
        return 0
    for processes in (limits["processes"], 1_024, 8_192, 65_536):
        if _can_fork(limits, processes):
            return int(processes)
    return 0


def drop(uid: int | None) -> None:
    """Give up root for a uid of our own; where the sandbox was started by a user, there is nothing to give up."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def dumpable(flag: int) -> None:
    """Say whether processes of the same uid may look at this one through /proc, or trace it."""
    if _PRCTL(PR_SET_DUMPABLE, flag, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


def shield(code: bytes) -> None:
    """Load a seccomp filter, for this process and all that it forks; where bubblewrap is around us, it has done so."""
    buffer, none = ctypes.create_string_buffer(code, len(code)), ctypes.c_ulong(0)
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    one, mode = ctypes.c_ulong(1), ctypes.c_ulong(2)
    if (
        _PRCTL(PR_SET_NO_NEW_PRIVS, one, none, none, none) != 0
        or _PRCTL(PR_SET_SECCOMP, mode, ctypes.byref(program), none, none) != 0
    ):
        raise OSError("prctl(PR_SET_SECCOMP) failed")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


def _can_fork(limits: dict[str, Any], processes: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
            drop(limits["uid"])
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            os._exit(0)
        except OSError:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    kill_all(child)
    return status == 0
