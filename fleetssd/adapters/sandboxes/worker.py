"""One prepared sandbox: a bwrap process with the zygote inside, and the two pipes to it."""

from __future__ import annotations

import json
import os
import secrets
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from fleetssd.adapters.sandboxes.confinement import NO_LIMIT, Shape, arguments
from fleetssd.surroundings import BARE, Limits, Surroundings

_GRACE_SECONDS = 30.0  # beyond the run's own wall clock: kill, wipe and answer on a busy machine
_START_SECONDS = 60.0
_MAX_REPLY = 1 << 20
_FIRST_UID = 0x7000_0000  # far above every real user, so that process limits count a worker's own runs only
_INSIDE = 1000
"""The runs' user, as a user namespace of ours knows it."""
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
_WHEN_TOLD = 'read word && exec "$@"'
"""A shell script that becomes the program it is given once it has read a line, and ends where that never comes."""


class DeadError(Exception):
    """The zygote ended, answered nonsense or did not answer in time."""


class Zygote:
    """One bwrap process and its two pipes; used by one thread at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a message and return the answer, within `seconds` and some grace."""
        body = json.dumps(message).encode()
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        data = memoryview(struct.pack(">I", len(body)) + body)
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise DeadError(self.last_words()) from error
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        size = struct.unpack(">I", self._exactly(4, deadline))[0]
        if size > _MAX_REPLY:
            raise DeadError(f"an answer of {size} bytes")
        reply = json.loads(self._exactly(size, deadline))
        if not isinstance(reply, dict):
            raise DeadError("an answer that is no object")
        return reply

    @property
    def expired(self) -> bool:
        """Tell whether it may end before its next job; one that dies with us never does."""
        return False

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
                raise DeadError(self.last_words() if ready else "no answer in time")
            parts += part
        return parts

    def last_words(self) -> str:
        """Return what bwrap wrote to stderr, once it is dead."""
        self.kill()
        self._process.wait()
        assert self._process.stderr is not None  # noqa: S101  it was opened as a pipe
        heard, _, _ = select.select([self._process.stderr], [], [], 1.0)  # a child of bwrap may hold it open
        said = os.read(self._process.stderr.fileno(), 4096) if heard else b""
        return said.decode("utf-8", "replace").strip() or "it ended without a word"


def start(bwrap: str, shape: Shape, limits: Limits, around: Surroundings = BARE) -> Zygote:
    """Start a zygote and wait for its hello. Raises DeadError, also where processes cannot be limited."""
    outside = _FIRST_UID + secrets.randbelow(1 << 20)
    with _guard() as guard:
        process = _spawn(bwrap, arguments(shape, limits, around), shape, outside, guard)
        zygote = greeted(Zygote(process), limits, (_INSIDE if shape.own_users else outside) if shape.as_root else None)
        guard.write(b"up\n")
    return zygote


def greeted(zygote: Zygote, limits: Limits, uid: int | None, **more: object) -> Zygote:
    """Return a zygote that has answered; it is released where it does not, or where processes cannot be limited.

    `more` may hold a seccomp `filter` (hex) that it loads, and `lease_seconds` after which it ends unasked.
    """
    try:
        hello = zygote.ask({**asdict(limits), "uid": uid, **more}, _START_SECONDS)
    except DeadError:
        zygote.release()
        raise
    if not hello["processes"]:
        zygote.release()
        raise DeadError(NO_LIMIT)
    return zygote


@contextmanager
def _guard() -> Iterator[IO[bytes]]:
    """Start a shell that ends bwrap's session where we die, or fail, before it is up.

    Until then die-with-parent does not reach bwrap's child: it waits, for ever, for a word that only bwrap can say.
    bwrap begins once the shell knows its session, so that there is no moment at which nobody could end it.
    """
    shell = ["/bin/sh", "-c", 'read session && { read word || kill -9 "-$session"; }']
    with subprocess.Popen(
        shell, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env={}, start_new_session=True
    ) as process:
        assert process.stdin is not None  # noqa: S101  it was opened as a pipe
        yield process.stdin


def _spawn(bwrap: str, words: Sequence[str], shape: Shape, uid: int, guard: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start bwrap; it reads filter and hosts from pipes, and root gives its user namespace root and one more user."""
    with _Pipes() as pipes:
        extra = ["--perms", "0644", "--ro-bind-data", str(pipes.holding(_HOSTS)), "/etc/hosts"]
        if shape.filter:
            extra += ["--seccomp", str(pipes.holding(shape.filter))]
        if shape.as_root and shape.own_users:
            (info, info_w), (wait_r, go) = pipes.pair(), pipes.pair()
            pipes.lent |= {info_w, wait_r}
            extra += ["--unshare-user", "--info-fd", str(info_w), "--userns-block-fd", str(wait_r)]
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WHEN_TOLD, "sh", bwrap, *extra, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={},
            start_new_session=True,
            pass_fds=tuple(pipes.lent),
        )
        guard.write(f"{process.pid}\n".encode())
        assert process.stdin is not None  # noqa: S101  it was opened as a pipe
        process.stdin.write(b"go\n")
        if shape.as_root and shape.own_users:
            os.close(info_w)
            pipes.open.remove(info_w)
            _map_users(process, info, uid)
            os.write(go, b"x")
    return process


def _map_users(process: subprocess.Popen[bytes], info: int, uid: int) -> None:
    """Let the namespace know root as 0, for what root owns, and `uid` as the user of the runs."""
    try:
        with os.fdopen(os.dup(info), "rb") as said:
            child = json.loads(said.read())["child-pid"]
        for kind in ("uid_map", "gid_map"):
            Path("/proc", str(child), kind).write_text(f"0 0 1\n{_INSIDE} {uid} 1\n", encoding="ascii")
    except (OSError, ValueError, KeyError) as error:
        zygote = Zygote(process)
        words = zygote.last_words()
        zygote.release()
        raise DeadError(f"{words} ({error})") from error


class _Pipes:
    """Descriptors of ours that are closed with the block; those that are `lent` go to the child."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.lent: set[int] = set()

    def pair(self) -> tuple[int, int]:
        """Open a pipe."""
        pair = os.pipe()
        self.open += pair
        return pair

    def holding(self, data: bytes) -> int:
        """Return the reading end, lent, of a pipe with `data` in it (a page at most) and nothing after."""
        reading, writing = os.pipe()
        self.open.append(reading)
        self.lent.add(reading)
        os.write(writing, data)
        os.close(writing)
        return reading

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self.open:
            os.close(each)
