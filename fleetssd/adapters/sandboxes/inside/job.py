"""The job's side of the fork: a process confines itself, writes the job's files and becomes the job."""

from __future__ import annotations

import os
from mmap import mmap
from typing import Any, NoReturn

from . import confinement, place, script


def become(
    job: dict[str, Any],
    limits: dict[str, Any],
    words: list[str] | None,
    token: bytes,
    pipes: tuple[int, int],
    kept: mmap | None = None,
) -> NoReturn:
    """Confine this process, write the job's files and become the job; `words` follow `python` where it is a script."""
    try:
        os.setsid()
        confinement.descriptors(*pipes)
        confinement.drop(limits["uid"])
        confinement.dumpable(1)  # an ordinary process again, which may look at itself through /proc/self
        os.umask(0o022)
        os.chdir(place.WORK)
        place.lay_out(job)
        confinement.limit(limits)
    except BaseException as error:  # noqa: BLE001  nothing of the job has run yet: this is the sandbox's own failure
        os.write(confinement.RESULT_FD, script.FAULT + token + f"the run could not be prepared: {error}".encode()[:200])
        os._exit(125)
    if words is None:
        _execute([script.INTERPRETER.get(program := job["command"][0], program), *job["command"][1:]])
    tell = kept is None and "digest" in job
    script.run(words, dict(job["files"]), token, kept=kept, tell=tell)


def _execute(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)  # noqa: S606  the job's own command, inside the sandbox
    except OSError as error:
        os.write(2, str(error).encode())
        os._exit(126)
