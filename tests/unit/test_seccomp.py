"""The filter's bytes, run through a small interpreter of classic BPF."""

from __future__ import annotations

import struct
from errno import EAFNOSUPPORT, ENOSYS, EPERM

import pytest

from fleetssd.adapters.sandboxes.seccomp import ABSENT_EVERYWHERE, ARCHITECTURES, REFUSED_EVERYWHERE, program

ALLOW, KILL, ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
MACHINES = pytest.mark.parametrize("machine", sorted(ARCHITECTURES))


def verdict(machine: str, number: int, first: int = 0, audit: int | None = None) -> int:
    """Return what the filter answers to a call with its first argument."""
    code = list(struct.iter_unpack("=HBBI", program(machine) or b""))
    data = struct.pack("=IIQQ", number, ARCHITECTURES[machine].audit if audit is None else audit, 0, first)
    held, at = 0, 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        if operation == 0x06:
            return int(operand)
        if operation == 0x20:
            held = struct.unpack_from("=I", data, operand)[0]
        else:
            truth = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[operation]
            at += yes if truth else no


@MACHINES
def test_every_listed_call_is_refused(machine: str) -> None:
    """What is refused fails with EPERM; what is absent fails as on a kernel without it."""
    architecture = ARCHITECTURES[machine]
    for number in (architecture.refused | REFUSED_EVERYWHERE).values():
        assert verdict(machine, number) == ERROR | EPERM
    for number in ABSENT_EVERYWHERE.values():
        assert verdict(machine, number) == ERROR | ENOSYS


@MACHINES
def test_every_other_call_is_allowed(machine: str) -> None:
    """No number between the listed ones is refused by accident."""
    architecture = ARCHITECTURES[machine]
    refused = {n for n in range(600) if verdict(machine, n, first=2) != ALLOW}
    listed = {*architecture.refused.values(), *REFUSED_EVERYWHERE.values(), *ABSENT_EVERYWHERE.values()}
    assert len(refused - listed) == 1  # memfd_create
    assert listed <= refused


@MACHINES
def test_clone_makes_threads_and_no_namespaces(machine: str) -> None:
    """The flags of a thread and of a fork pass; each flag of a new namespace alone is refused."""
    clone = ARCHITECTURES[machine].clone
    assert verdict(machine, clone, first=0x003D_0F00) == verdict(machine, clone, first=17) == ALLOW
    for flag in (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
        assert verdict(machine, clone, first=flag | 17) == ERROR | EPERM


@MACHINES
def test_sockets_are_of_families_that_the_network_namespace_ends(machine: str) -> None:
    """Unix, internet and netlink sockets pass; a hypervisor's, the kernel's ciphers and raw packets do not."""
    socket = ARCHITECTURES[machine].socket
    assert {verdict(machine, socket, first=family) for family in (1, 2, 10, 16)} == {ALLOW}
    assert {verdict(machine, socket, first=family) for family in (0, 17, 38, 40)} == {ERROR | EAFNOSUPPORT}


@MACHINES
def test_another_convention_is_killed(machine: str) -> None:
    """A call by a 32-bit number would mean something else, so nothing of it is looked at."""
    assert verdict(machine, 1, audit=0x4000_0003) == KILL
    assert verdict("x86_64", 0x4000_0001) == KILL


def test_an_unknown_machine_has_no_filter() -> None:
    """Numbers are not guessed."""
    assert program("riscv64") is None
