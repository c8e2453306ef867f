"""Port Preparer by bubblewrap or a container: run a repository's prepare command once, over a copy of one commit.

What runs is the operator's command over code that a person merged, so it may have the network, where the settings
say so, and time; it still sees no home, no data folder, no token, and can write to nothing but the two folders.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fleetssd.adapters.sandboxes.confinement import binds, interpreter, system
from fleetssd.adapters.sandboxes.containers import ContainerEngine, Program, mount
from fleetssd.admission import NotAdmittedError
from fleetssd.checks import Preparation
from fleetssd.errors import Misconfigured
from fleetssd.surroundings import ENVIRONMENT, WORK

TAIL = 1_500
_NETWORK_FILES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
    "/etc/passwd", "/etc/group",
)  # fmt: skip
_QUIET = {
    "HOME": "/tmp/home",  # noqa: S108  a tmpfs of its own
    "LANG": "C.UTF-8",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
# The virtual environment comes first, with pip where this Python can bring it along, and only where none is there.
_SCRIPT = """
set -e
umask 022
test -e {env}/bin/python || "$1" -m venv --symlinks {env} || "$1" -m venv --symlinks --without-pip {env}
exec sh -ec "$2"
"""


class BubblewrapPreparer:
    """Prepares in a sandbox of its own; `environment` is fleetssd's, of which a preparation sees what it names."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def prepare(self, preparation: Preparation, work: Path, environment: Path) -> None:
        """Run the command in `work`; raises NotAdmittedError with the end of its output where it fails."""
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise Misconfigured("bubblewrap (bwrap) is not installed", hint="apt-get install bubblewrap")
        prefix = Path(sys.base_prefix).resolve()
        script = _SCRIPT.format(env=ENVIRONMENT)
        command = ["/bin/sh", "-c", script, "sh", str(interpreter(prefix)), preparation.command]
        words = [bwrap, *_arguments(preparation, work, environment, prefix), *command]
        # process 1 of its namespace goes with its group, and with it all others
        _run(words, self._seen(preparation, prefix), preparation.seconds, lambda: None)

    def _seen(self, preparation: Preparation, prefix: Path) -> dict[str, str]:
        """Return the command's environment; through bwrap's own, since an argument could be read by anybody."""
        named = {name: self._environment[name] for name in preparation.environment if name in self._environment}
        return {
            "PATH": f"{ENVIRONMENT}/bin:{prefix}/bin:/usr/bin:/bin",
            "VIRTUAL_ENV": ENVIRONMENT,
            **_QUIET,
            **named,
        }


class ContainerPreparer:
    """Prepares in a container of the image that the runs have, with a user's own rights over the two folders."""

    def __init__(self, program: Program, image: str, environment: Mapping[str, str]) -> None:
        self._program, self._image, self._environment = program, image, environment

    def prepare(self, preparation: Preparation, work: Path, environment: Path) -> None:
        """Run the command in `work`; raises NotAdmittedError with the end of its output where it fails."""
        engine, name = ContainerEngine.found(self._program, self._image), f"fleetssd-prepare-{secrets.token_hex(8)}"
        words = [engine.path, *self._arguments(engine, name, preparation, work, environment)]
        _run(words, dict(self._environment), preparation.seconds, lambda: engine.refusal("kill", name))

    def _arguments(
        self, engine: ContainerEngine, name: str, preparation: Preparation, work: Path, environment: Path
    ) -> Iterator[str]:
        yield from engine.common(name)
        yield from (f"--user={os.geteuid()}:{os.getegid()}", f"--workdir={WORK}")
        if self._program == "podman" and os.geteuid() != 0:
            yield "--userns=keep-id"  # else what is written belongs to nobody that this user is
        if not preparation.network:
            yield "--network=none"
        yield "--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777"
        yield from (mount(path, str(path)) for path in (*preparation.binds, *preparation.only_binds))
        yield from (mount(work, WORK, writable=True), mount(environment, ENVIRONMENT, writable=True))
        known = {"PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin", "VIRTUAL_ENV": ENVIRONMENT, **_QUIET}
        yield from (f"--env={key}={value}" for key, value in known.items())
        # by name alone: the engine takes the value from its own environment, and an argument could be read by anybody
        yield from (f"--env={key}" for key in preparation.environment if key in self._environment)
        script = "mkdir -p /tmp/home\n" + _SCRIPT.format(env=ENVIRONMENT)
        yield from ("--entrypoint=/bin/sh", self._image, "-c", script, "sh", "python3", preparation.command)


class NoPreparer:
    """Prepares nothing: where there is no sandbox, no command of a repository's preparation runs."""

    def prepare(self, preparation: Preparation, work: Path, environment: Path) -> None:
        """Raise NotAdmittedError."""
        raise NotAdmittedError("prepare_failed", "there is no sandbox to prepare in")


def _run(words: Sequence[str], environment: dict[str, str], seconds: float, end: Callable[[], object]) -> None:
    """Run a preparation to its end or its time; `end` ends what a signal to its group does not reach."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if status is None:
                end()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status != 0:
            why = f"took longer than {seconds:g} s" if status is None else f"exit status {status}"
            raise NotAdmittedError("prepare_failed", f"{why}\n{_tail(said.fileno())}".strip())


def _arguments(preparation: Preparation, work: Path, environment: Path, prefix: Path) -> Iterator[str]:
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL")
    if os.geteuid() != 0:
        yield from ("--unshare-user",)
    yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox")
    yield from system(prefix)
    if preparation.network:
        for name in _NETWORK_FILES:
            yield from ("--ro-bind-try", name, name)
    else:
        yield "--unshare-net"
    yield from ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/tmp/home")  # noqa: S108
    yield from binds((*preparation.binds, *preparation.only_binds))
    yield from ("--bind", str(work), WORK, "--bind", str(environment), ENVIRONMENT, "--chdir", WORK)


def _tail(descriptor: int) -> str:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, max(0, size - TAIL), os.SEEK_SET)
    return os.read(descriptor, TAIL).decode("utf-8", errors="replace").strip()
