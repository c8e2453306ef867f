"""ContainerSandbox: a place is one long-lived container of podman or docker, and a run is a fork in it.

Nothing is ever pulled: an image comes onto this machine by an operator's hand. What the zygote needs of the image is
Python 3.11 or newer as `python3`.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fleetssd.adapters.sandboxes import seccomp
from fleetssd.adapters.sandboxes.confinement import INSIDE, PROGRAM, room
from fleetssd.adapters.sandboxes.worker import DeadError, Zygote, greeted
from fleetssd.adapters.sandboxes.zygotes import ZygoteSandbox
from fleetssd.errors import Misconfigured
from fleetssd.surroundings import BARE, ENVIRONMENT, WORK, Limits, Surroundings

Program: TypeAlias = Literal["podman", "docker"]

LEASE_SECONDS = 600.0
"""A container may outlive us where we are killed; its zygote ends where it is asked nothing for so long."""
_OWN_BYTES = 256 << 20
"""What the zygote itself, its forks' page tables and small files may take beside the runs."""
_OWN_PROCESSES = 8
_FIRST_UID, _UIDS = 60_578, 600
"""Users that systemd's table leaves unused, and that a rootless engine's map (up to 65,535) knows."""
_COMMAND_SECONDS = 60.0
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """A container engine's command line and the image that places are made of."""

    program: Program
    path: str
    image: str

    @classmethod
    def found(cls, program: Program, image: str) -> ContainerEngine:
        """Return the engine where it answers and has the image; raises Misconfigured with the command that helps."""
        path = shutil.which(program)
        if path is None:
            raise Misconfigured(f"{program} is not installed", hint=f"Install it: apt-get install {_PACKAGE[program]}")
        engine = cls(program, path, image)
        if failure := engine.refusal("version"):
            raise Misconfigured(f"{program} does not answer: {failure}", hint=_AWAY[program])
        if failure := engine.refusal("image", "inspect", image):
            raise Misconfigured(f"{program} has no image {image}: {failure}", hint=f"{program} pull {image}")
        return engine

    def refusal(self, *words: str) -> str:
        """Run a short command and return nothing, or the last line that it said where it failed."""
        try:
            done = subprocess.run(
                [self.path, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {_COMMAND_SECONDS:g} s"
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return "" if done.returncode == 0 else (lines or [f"exit status {done.returncode}"])[-1]

    def common(self, name: str) -> Iterator[str]:
        """Yield what every container of ours is started with: nothing of this machine, no privilege, no pull."""
        yield from ("run", "--rm", "--pull=never", f"--name={name}", "--hostname=sandbox", "--log-driver=none")
        yield from ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--ipc=private")
        # said, since an engine may otherwise want more than this machine lets it give
        yield from ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--ulimit=core=0:0")
        if self.program == "podman":
            yield from ("--read-only-tmpfs=false", "--http-proxy=false")  # else /run and /var/tmp could be written
        else:
            for proxy in _PROXIES:  # the client's own settings would be handed on, with a password in them perhaps
                yield from (f"--env={proxy}=", f"--env={proxy.lower()}=")


class ContainerZygote(Zygote):
    """A zygote whose container outlives its client unless it is told to go."""

    def __init__(self, process: subprocess.Popen[bytes], engine: ContainerEngine, name: str) -> None:
        super().__init__(process)
        self._engine, self._name = engine, name
        self._asked = time.monotonic()

    def ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask, and note when."""
        reply = super().ask(message, seconds)
        self._asked = time.monotonic()
        return reply

    @property
    def expired(self) -> bool:
        """Tell whether its lease may run out before the next job reaches it."""
        return time.monotonic() - self._asked > LEASE_SECONDS / 2

    def kill(self) -> None:
        """End the container, then the client."""
        if self._process.poll() is None:
            self._engine.refusal("kill", self._name)
        super().kill()


class ContainerSandbox(ZygoteSandbox):
    """Grades jobs in containers. Raises Misconfigured where the engine or the image is missing, or makes no place."""

    def __init__(self, program: Program, image: str, limits: Limits | None = None, *, workers: int = 2) -> None:
        self._engine = ContainerEngine.found(program, image)
        super().__init__(limits, workers=workers)

    def _first(self, limits: Limits) -> Zygote:
        try:
            return self._start(limits, BARE)
        except DeadError as death:
            engine = self._engine
            raise Misconfigured(
                f"{engine.program} cannot make a sandbox of {engine.image}: {death}",
                hint="The image needs Python 3.11 or newer as python3, and the engine limits of memory and processes.",
            ) from None

    def _start(self, limits: Limits, around: Surroundings) -> Zygote:
        name = f"fleetssd-sandbox-{secrets.token_hex(8)}"
        process = subprocess.Popen(
            [self._engine.path, *arguments(self._engine, name, limits, around)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        code = seccomp.program(platform.machine()) or b""
        zygote = ContainerZygote(process, self._engine, name)
        return greeted(zygote, limits, None, filter=code.hex(), lease_seconds=LEASE_SECONDS)


def arguments(engine: ContainerEngine, name: str, limits: Limits, around: Surroundings = BARE) -> Iterator[str]:
    """Yield the engine's arguments: no network, a read-only system, limits, then mounts and the interpreter."""
    uid = _FIRST_UID + secrets.randbelow(_UIDS)  # process limits are counted by user: places rarely share one
    disk, shared = limits.disk_bytes + room(around.tree), limits.disk_bytes // 4
    memory = limits.memory_bytes + disk + shared + _OWN_BYTES  # what lies in a tmpfs counts as memory
    own = around.environment is not None and os.path.lexists(around.environment / "bin" / "python")
    yield from engine.common(name)
    yield from ("--interactive", "--init=false", "--network=none", f"--user={uid}:{uid}", "--workdir=/")
    yield from (f"--pids-limit={limits.processes + _OWN_PROCESSES}", f"--memory={memory}", f"--memory-swap={memory}")
    yield f"--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777,size={disk}"
    yield f"--tmpfs=/dev/shm:rw,exec,nosuid,nodev,mode=1777,size={shared}"
    yield mount(INSIDE, "/inside")
    yield from (mount(path, str(path)) for path in around.binds)
    if around.environment is not None:
        yield mount(around.environment, ENVIRONMENT)
        yield f"--env=VIRTUAL_ENV={ENVIRONMENT}"
    if around.tree is not None:
        yield mount(around.tree, "/tree")
    places = f"{ENVIRONMENT}/bin:" if around.environment else ""
    yield f"--env=PATH={places}/usr/local/bin:/usr/bin:/bin"
    yield from (f"--env=HOME={WORK}", "--env=LANG=C.UTF-8", "--env=PYTHONHASHSEED=0", "--env=PYTHONDONTWRITEBYTECODE=1")
    yield f"--entrypoint={ENVIRONMENT}/bin/python" if own else "--entrypoint=python3"
    yield from (engine.image, *PROGRAM)


def mount(source: Path, target: str, *, writable: bool = False) -> str:
    """Return the argument that shows a path of this machine in a container."""
    if {",", '"'} & {*str(source), *target}:
        raise Misconfigured(f"a container engine reads {source} as several words", hint="Take the comma or quote out.")
    return f"--mount=type=bind,source={source},target={target}" + ("" if writable else ",readonly")


_PACKAGE = {"podman": "podman", "docker": "docker.io"}
_AWAY = {
    "podman": "`podman info` says more.",
    "docker": "Is its daemon up, and may this user reach its socket? `docker info` says more.",
}
