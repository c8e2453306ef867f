"""The seccomp filter of a run, as the bytes that `bwrap --seccomp FD` reads: kernel calls that grading never needs.

A list of what is refused, not of what is allowed: tests of unknown projects run in there, and an allowed list breaks
them with every new libc. Refused is what loads code into the kernel, changes mounts, namespaces or the machine, looks
into other processes, or holds memory that no other limit of ours counts (System V memory, memfd). The rest of the
kernel's surface stays in reach.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from typing import Final

Instruction = tuple[int, int, int, int]
"""Classic BPF: (operation, instructions to skip if true, if false, operand)."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64 bits, low half first
_KILL, _ERROR, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_X32 = 0x4000_0000
_NEW_NAMESPACES = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: all that end at the network namespace, as AF_VSOCK does not."""


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What the kernel calls a machine, and its own numbers of the calls that every machine numbers differently."""

    audit: int
    clone: int
    socket: int
    refused: dict[str, int]


REFUSED_EVERYWHERE: Final = {
    "pidfd_getfd": 438, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442, "quotactl_fd": 443, "open_tree_attr": 467,
}  # fmt: skip
ABSENT_EVERYWHERE: Final = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435, "memfd_secret": 447,
}  # fmt: skip
"""Answered as on a kernel without them, so that libraries fall back: clone3 hides its flags in memory, to clone."""
_MEMFD = {"x86_64": 319, "aarch64": 279}

ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        audit=0xC000_003E,
        clone=56,
        socket=41,
        refused={
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
            "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
            "keyctl": 250, "add_key": 248, "request_key": 249,
            "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "fanotify_init": 300,
            "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
            "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "syslog": 103,
            "sethostname": 170, "setdomainname": 171, "vhangup": 153, "personality": 135,
            "ioprio_set": 251,
            "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159,
            "name_to_handle_at": 303, "open_by_handle_at": 304, "iopl": 172, "ioperm": 173, "modify_ldt": 154,
            "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66,
            "semtimedop": 220, "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71,
        },
    ),
    "aarch64": _Architecture(
        audit=0xC000_00B7,
        clone=220,
        socket=198,
        refused={
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
            "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
            "keyctl": 219, "add_key": 217, "request_key": 218,
            "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "fanotify_init": 262,
            "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106,
            "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60, "syslog": 116,
            "sethostname": 161, "setdomainname": 162, "vhangup": 58, "personality": 92,
            "ioprio_set": 30,
            "settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171,
            "name_to_handle_at": 264, "open_by_handle_at": 265,
            "shmget": 194, "shmat": 196, "shmctl": 195, "shmdt": 197, "semget": 190, "semop": 193, "semctl": 191,
            "semtimedop": 192, "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187,
        },
    ),
}  # fmt: skip


def program(machine: str) -> bytes | None:
    """Return the filter for a machine as `uname -m` names it, in the kernel's `struct sock_filter`s; None if unknown.

    A refused call fails with EPERM, an absent one with ENOSYS, a socket of another family with EAFNOSUPPORT; a call
    by another machine's convention (32 bit, x32) kills the process.
    """
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    absent = {**ABSENT_EVERYWHERE, "memfd_create": _MEMFD[machine]}
    return b"".join(struct.pack("=HBBI", *each) for each in _instructions(architecture, absent))


def _instructions(architecture: _Architecture, absent: Mapping[str, int]) -> Iterator[Instruction]:
    yield _LOAD, 0, 0, _MACHINE
    yield _EQUAL, 1, 0, architecture.audit
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    if architecture is ARCHITECTURES["x86_64"]:
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    for numbers, error in (((architecture.refused | REFUSED_EVERYWHERE).values(), EPERM), (absent.values(), ENOSYS)):
        for number in numbers:
            yield _EQUAL, 0, 1, number
            yield _RETURN, 0, 0, _ERROR | error
    yield _EQUAL, 0, 4, architecture.clone
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield _ANY_BIT, 0, 1, _NEW_NAMESPACES
    yield _RETURN, 0, 0, _ERROR | EPERM
    yield _RETURN, 0, 0, _ALLOW
    yield _EQUAL, 0, len(_FAMILIES) + 2, architecture.socket
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    for left, family in zip(range(len(_FAMILIES), 0, -1), _FAMILIES, strict=True):
        yield _EQUAL, left, 0, family
    yield _RETURN, 0, 0, _ERROR | EAFNOSUPPORT
    yield _RETURN, 0, 0, _ALLOW
