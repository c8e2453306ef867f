"""How bwrap is asked to confine: what this machine allows, the tightest first."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetssd.adapters.sandboxes import seccomp
from fleetssd.surroundings import BARE, ENVIRONMENT, WORK, Limits, Surroundings

INSIDE = Path(__file__).with_name("inside")
PROGRAM = ("-s", "-P", "-B", "-c", "import sys; sys.path.append('/'); from inside.loop import main; main()")
"""What follows the interpreter in a place where INSIDE lies at the root."""
NO_LIMIT = "the kernel does not limit the number of processes here"


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


def arguments(shape: Shape, limits: Limits, around: Surroundings = BARE) -> list[str]:
    """Return bwrap's arguments: namespaces, then mounts in order, then the interpreter."""
    prefix = Path(sys.base_prefix).resolve()
    base = interpreter(prefix)
    own = around.environment is not None and os.path.lexists(around.environment / "bin" / "python")
    python = f"{ENVIRONMENT}/bin/python" if own else str(base)
    places = [f"{ENVIRONMENT}/bin"] if around.environment else []
    namespaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    privileges = ["--cap-drop", "ALL"]
    if shape.as_root:  # for the zygote alone: to change into the runs' uid, to kill them and to wipe their files
        for capability in ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE"):
            privileges += ["--cap-add", f"CAP_{capability}"]
    else:
        namespaces += ["--unshare-user", "--disable-userns"]
    environment = {
        "PATH": ":".join([*places, str(base.parent), "/usr/bin", "/bin"]),
        "HOME": WORK,
        **({"VIRTUAL_ENV": ENVIRONMENT} if places else {}),
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
        *("--dev", "/dev", "--ro-bind", str(INSIDE), "/inside"),
        *_surroundings(around),
        *("--size", str(limits.disk_bytes + room(around.tree)), "--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108
        *("--size", str(limits.disk_bytes // 4), "--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"),
        *(python, *PROGRAM),
    ]


def binds(paths: Iterable[Path]) -> Iterator[str]:
    """Bind paths of this machine under their own names, read-only."""
    for path in paths:
        for parent in reversed(path.parents[:-1]):  # named, so that the runs' uid may pass through them
            yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(path), str(path))


def _surroundings(around: Surroundings) -> Iterator[str]:
    yield from binds(around.binds)
    if around.environment is not None:
        yield from ("--ro-bind", str(around.environment), ENVIRONMENT)
    if around.tree is not None:
        yield from ("--ro-bind", str(around.tree), "/tree")


def room(tree: Path | None) -> int:
    """Return the bytes of a tmpfs that a copy of a tree takes: whole pages, and one for each file and folder."""
    if tree is None:
        return 0
    page = resource.getpagesize()
    return sum(
        page * (1 + -(-Path(folder, name).lstat().st_size // page))
        for folder, folders, names in os.walk(tree)
        for name in (*folders, *names)
    )


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
        yield from binds([prefix])


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
