"""git processes on one mirror, through GitPython: arguments in a list, a closed environment, a limit on time."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleetssd.adapters.git_mirror.parse import heads
from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient

FETCH_SECONDS = 600.0
READ_SECONDS = 120.0
ADDRESS = "fleet-address"
"""A file in a mirror: where it was last set to be fetched from."""

_CLOSED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "http:https",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
}
# Set for every process, whatever the mirror's own file says; hooks and background work never run.
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "fetch.unpackLimit": "1",  # one pack, synced once, and not a file an object
    "http.followRedirects": "false",
    "protocol.version": "2",
    "credential.helper": "",
}


class MissingRef(Rejected):
    """The server has none of these refs or commits, or does not give them out."""


def login_environment(root: str, token_file: Path) -> dict[str, str]:
    """Return the settings and the token as `GIT_CONFIG_*`: never an argument, never a file, only for this server.

    Basic is the one form of login in which servers check the token's scope. Raises Misconfigured where there is none.
    """
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(f"cannot read the token file {token_file}", hint="See forge.token_file.") from None
    login = base64.b64encode(f"x:{token}".encode()).decode()
    pairs = [*_SETTINGS.items(), (f"http.{root}/.extraHeader", f"Authorization: Basic {login}")]
    numbered = {f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in enumerate(pairs)}
    values = {f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(pairs)}
    return {**_CLOSED, "GIT_CONFIG_COUNT": str(len(pairs)), **numbered, **values}


def object_format(name: str) -> str:
    """Tell from one object's name how a repository names them: a mirror must do the same."""
    return "sha256" if len(name) == 64 else "sha1"


@dataclass(frozen=True)
class Repository:
    """One bare mirror."""

    path: Path
    environment: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, url: str, environment: Mapping[str, str], names: str = "sha1") -> Repository:
        """Open a mirror of `url`, making it where it is missing; `names` is how its objects are named.

        Raises Misconfigured where git is missing.
        """
        number = environment.get("GIT_CONFIG_COUNT", "0")
        remote = {f"GIT_CONFIG_KEY_{number}": "remote.origin.url", f"GIT_CONFIG_VALUE_{number}": url}
        mirror = cls(path, {**environment, **remote, "GIT_CONFIG_COUNT": str(int(number) + 1)})
        address = path / ADDRESS
        if not address.exists():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            mirror.run("init", "--bare", "--quiet", "--template=", f"--object-format={names}", str(path))
        if not address.exists() or address.read_text() != url:
            address.write_text(url)
        return mirror

    def fetch(self, wants: Collection[str], *, whole: bool = False) -> None:
        """Fetch refspecs and commits, without their files unless `whole`. Raises MissingRef where one is lacking."""
        stdin = "".join(f"{want}\n" for want in wants).encode()
        common = ("--quiet", "--no-tags", "--no-auto-maintenance", "--recurse-submodules=no", "--no-write-fetch-head")
        self.run(
            "fetch",
            *common,
            *(() if whole else ("--filter=blob:none",)),
            "--stdin",
            "origin",
            stdin=stdin,
            seconds=FETCH_SECONDS,
        )

    def fetch_blobs(self, blobs: Collection[str]) -> None:
        """Fetch these objects, as far as they are not here, in one request."""
        if not blobs or self._whole:
            return
        # Asking for a missing object would fetch it alone, so ask what is here instead.
        listed = self.read("cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)")
        missing = set(blobs).difference(listed.decode().split("\n"))
        if missing:
            with suppress(MissingRef):  # a server that gives out no single objects; git then asks in its own way
                self.fetch(sorted(missing))

    @property
    def _whole(self) -> bool:
        """Whether nothing was ever left out of a fetch: git notes in the mirror's own settings where something was."""
        return b"promisor" not in (self.path / "config").read_bytes()

    def heads(self, numbers: Collection[int]) -> dict[int, str]:
        """Return the fetched heads of pull requests: {number: commit}."""
        found = dict(heads(self.read("for-each-ref", "--format=%(objectname) %(refname)", "refs/fleet/pull/")))
        return {number: found[number] for number in numbers if number in found}

    def here(self, commits: Collection[str]) -> set[str]:
        """Return those of these commits that the mirror has, or none where one is lacking; the server is not asked."""
        stdin = "".join(f"{commit}\n" for commit in commits).encode()
        try:
            listed = self.run("cat-file", "--batch-check=%(objectname)", stdin=stdin, offline=True)
        except (Transient, Rejected):  # of a commit that is lacking git says so, or ends where it may not ask for it
            return set()
        return set(commits).intersection(listed.decode().split("\n"))

    def merge_base(self, one: str, other: str) -> str:
        """Return the best common ancestor of two commits, empty where there is none."""
        try:
            return self.read("merge-base", one, other).decode().strip()
        except (Transient, Rejected):
            return ""

    def read(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Return what a git command prints."""
        return self.run(*arguments, stdin=stdin, seconds=READ_SECONDS)

    def run(self, *arguments: str, stdin: bytes = b"", seconds: float = READ_SECONDS, offline: bool = False) -> bytes:
        """Run a git command on this mirror and return what it prints, byte for byte."""
        from git import Git  # noqa: PLC0415 - a daemon that has fetched nothing does without
        from git.exc import GitCommandError, GitCommandNotFound  # noqa: PLC0415

        environment = {**self.environment, **({"GIT_ALLOW_PROTOCOL": "none"} if offline else {})}
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            try:
                output = Git(str(self.path)).execute(
                    ["git", f"--git-dir={self.path}", *arguments],
                    istream=source,
                    env=environment,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    kill_after_timeout=seconds,
                )
            except GitCommandNotFound:
                raise Misconfigured("git is not installed", hint="Install git, version 2.31 or newer.") from None
            except GitCommandError as error:
                raise _meaning(str(error.stderr or ""), arguments[0]) from None
        return output if isinstance(output, bytes) else str(output).encode()


_MISSING = re.compile(
    r"couldn't find remote ref|not our ref|unadvertised object|no such remote ref|bad object"
    r"|error: 404|repository '.*' not found",
    re.IGNORECASE,
)
_DENIED = re.compile(r"Authentication failed|error: 40[13]|could not read Username|terminal prompts disabled")


def _meaning(stderr: str, command: str) -> FleetError:
    """Name git's own messages (in English: GitPython sets LC_ALL=C) for the reaction."""
    said = " ".join(line.strip() for line in stderr.splitlines() if line.strip())[-300:]
    if _MISSING.search(stderr):
        return MissingRef(said)
    if _DENIED.search(stderr):
        hint = "The token needs read:repository and an account that sees the repository."
        return Misconfigured(f"git {command} was refused: {said}", hint=hint)
    return Transient(f"git {command} failed: {said}", hint="It is tried again with the next poll.")
