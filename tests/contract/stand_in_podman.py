"""Stands in for podman where no container engine is: takes exactly the arguments that podman takes, checks them.

The container is a bubblewrap with the machine's own /usr as the image. It refuses what would weaken the container,
so a flag that the adapter forgets ends the test. `STAND_IN_STATE` names the folder where it keeps what runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fleetssd.adapters.sandboxes.confinement import binds, interpreter, system

IMAGE = "example.org/python:3"
REFUSED = 125  # podman's own exit status where it could not even start


def main() -> int:
    """Do what podman does with these arguments, or say why not."""
    state = Path(os.environ["STAND_IN_STATE"])
    words = sys.argv[1:]
    if words[:1] == ["version"]:
        return _fail("cannot connect") if (state / "away").exists() else 0
    if words[:2] == ["image", "inspect"]:
        return 0 if words[2:] == [IMAGE] else _fail(f"Error: {words[-1]}: image not known")
    if words[:1] == ["kill"] and len(words) == 2:
        return _kill(state / words[1])
    if words[:1] == ["run"]:
        _run(state, _parse(words[1:]))
    return _fail(f"unrecognized command {words}")


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=True)
    for flag in ("--rm", "--read-only", "--interactive"):
        parser.add_argument(flag, action="store_true")
    for name in (
        *("--pull", "--name", "--hostname", "--log-driver", "--cap-drop", "--ipc", "--read-only-tmpfs", "--http-proxy"),
        *("--security-opt", "--init", "--network", "--user", "--workdir", "--pids-limit", "--memory", "--memory-swap"),
        "--entrypoint",
    ):
        parser.add_argument(name)
    for name in ("--tmpfs", "--mount", "--env", "--ulimit"):
        parser.add_argument(name, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(words)


def _run(state: Path, asked: argparse.Namespace) -> NoReturn:
    wanted = {
        "rm": True, "read_only": True, "interactive": True, "pull": "never", "log_driver": "none", "cap_drop": "ALL",
        "ipc": "private", "read_only_tmpfs": "false", "http_proxy": "false", "security_opt": "no-new-privileges",
        "init": "false", "network": "none", "workdir": "/", "image": IMAGE,
    }  # fmt: skip
    wrong = {name: getattr(asked, name) for name, value in wanted.items() if getattr(asked, name) != value}
    if wrong or not (int(asked.pids_limit) > 0 and int(asked.memory) == int(asked.memory_swap) > 0):
        raise SystemExit(_fail(f"a container that is not confined: {wrong}"))
    (state / asked.name).write_text(str(os.getpid()), encoding="ascii")
    words = list(_bwrap(asked))
    os.execvp(words[0], words)  # noqa: S606


def _bwrap(asked: argparse.Namespace) -> Iterator[str]:
    """Yield the bubblewrap that is this container: its user, its mounts, its environment, process 1."""
    uid, gid = asked.user.split(":")
    yield from ("bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent")
    yield from ("--as-pid-1", "--new-session", "--hostname", asked.hostname, "--clearenv", "--cap-drop", "ALL")
    if os.geteuid() == 0:  # the kernel counts no processes of a user that root itself became by a namespace
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")
    else:
        yield from ("--unshare-user", "--uid", uid, "--gid", gid, "--disable-userns")
    prefix = Path(sys.base_prefix).resolve()
    yield from system(prefix)
    yield from ("--proc", "/proc", "--dev", "/dev")
    for place in asked.tmpfs:
        target, _, options = place.partition(":")
        told = dict(each.partition("=")[::2] for each in options.split(","))
        yield from ("--size", told["size"], "--perms", told["mode"], "--tmpfs", target)
    for place in asked.mount:
        told = dict(each.partition("=")[::2] for each in place.split(","))
        assert told["type"] == "bind" and "readonly" in told, place  # noqa: PT018
        if told["source"] == told["target"]:
            yield from binds([Path(told["source"])])
        else:
            yield from ("--ro-bind", told["source"], told["target"])
    yield from ("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", asked.workdir)
    for each in asked.env:
        name, _, value = each.partition("=")
        yield from ("--setenv", name, value)
    if os.geteuid() == 0:
        yield from ("/usr/bin/setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs")
        yield from ("--inh-caps=-all", "--bounding-set=-all")
    yield str(interpreter(prefix)) if asked.entrypoint == "python3" else asked.entrypoint
    yield from asked.command


def _kill(kept: Path) -> int:
    if not kept.exists():
        return _fail("no such container")
    os.kill(int(kept.read_text(encoding="ascii")), signal.SIGKILL)
    return 0


def _fail(words: str) -> int:
    print(words, file=sys.stderr)  # noqa: T201
    return REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
