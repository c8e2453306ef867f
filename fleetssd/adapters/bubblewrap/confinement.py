"""How bwrap is asked to confine: what this machine allows, the tightest first."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetssd.adapters.bubblewrap import seccomp

_ZYGOTE = Path(__file__).with_name("zygote.py")
NO_LIMIT = "the kernel does not limit the number of processes here"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use; `disk_bytes` is the tmpfs of a worker.

    `memory_bytes` is address space a process, enforced by the kernel, and what all processes of a run may hold
    together, looked at twenty times a second.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    processes: int = 16
    open_files: int = 64
    file_bytes: int = 16 << 20
    disk_bytes: int = 64 << 20
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """How the sandbox is made.

    By root the runs get a uid of their own (in a user namespace where `own_users`), by a user a namespace that knows
    only that user; with a private /proc or none; with a seccomp `filter` or none (empty).
    """

    as_root: bool
    own_users: bool
    proc: bool
    filter: bytes = field(repr=False)


def shapes() -> Iterator[Shape]:
    """Yield what this machine may allow, the tightest first."""
    known = Path("/proc/sys/kernel/seccomp").exists()
    loaded = (seccomp.program(platform.machine()) if known else None) or b""
    for as_root, own_users in ((True, True), (True, False), (False, True)) if os.geteuid() == 0 else ((False, True),):
        for proc in (True, False):  # in a container whose own /proc is masked, the kernel refuses a new one
            yield Shape(as_root, own_users, proc, loaded)


def arguments(shape: Shape, limits: Limits) -> list[str]:
    """Return bwrap's arguments: namespaces, then mounts in order, then the interpreter."""
    prefix = Path(sys.base_prefix).resolve()
    python = interpreter(prefix)
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
        *system(prefix),
        *(("--proc", "/proc") if shape.proc else ()),
        *("--dev", "/dev", "--ro-bind", str(_ZYGOTE), "/zygote.py"),
        *("--size", str(limits.disk_bytes), "--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108
        *("--size", str(limits.disk_bytes // 4), "--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"),
        *(str(python), "-s", "-P", "-B", "/zygote.py"),
    ]


def system(prefix: Path) -> Iterator[str]:
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


def interpreter(prefix: Path) -> Path:
    """Return the base interpreter, never a virtual environment's: its packages are none of a run's business."""
    exact = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return exact if exact.exists() else prefix / "bin" / "python3"


def hint(failures: list[str]) -> str:
    """Say which switch of the machine is in the way."""
    if any("nknown option" in failure for failure in failures):
        return "bubblewrap 0.8 or newer is needed."
    if all(NO_LIMIT in failure for failure in failures):
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
