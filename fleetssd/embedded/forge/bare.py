"""One bare repository on disk: refs kept in memory and moved through one open `git update-ref`; git's own diffs."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

from fleetssd.embedded.forge import history, trees
from fleetssd.embedded.forge.objects import Objects
from fleetssd.errors import Rejected, Transient

NOTHING = "0" * 40
_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[http]
\treceivepack = true
[receive]
\thideRefs = refs/pull
\tautogc = false
\tunpackLimit = 1
[gc]
\tauto = 0
[uploadpack]
\tallowFilter = true
\tallowAnySHA1InWant = true
"""


class RefChange(NamedTuple):
    """A ref that moved; an all-zero id stands for absent."""

    ref: str
    old: str
    new: str


def git_environment() -> dict[str, str]:
    """Return an environment in which the caller's own git settings say nothing."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}


class BareRepository:
    """A bare repository; every change of a ref goes through `move`, or is found by `refresh` after a push."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = Objects(path)
        self.refs: dict[str, str] = {}
        self.known: set[str] | None = None
        self._mover: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        if path.exists():
            self.refresh()

    def create(self, default_branch: str) -> None:
        """Make the empty repository."""
        for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "refs/pull"):
            (self.path / folder).mkdir(parents=True)
        (self.path / "config").write_text(_CONFIG)
        (self.path / "HEAD").write_text(f"ref: refs/heads/{default_branch}\n")
        self.known = set()

    def head_to(self, default_branch: str) -> None:
        """Point HEAD to another branch."""
        self.git("symbolic-ref", "HEAD", f"refs/heads/{default_branch}")

    def refresh(self) -> list[RefChange]:
        """Read all refs from disk and return what changed."""
        lines = self.git("for-each-ref", "--format=%(objectname) %(refname)").decode().splitlines()
        now = {name: sha for sha, name in (line.split(" ", 1) for line in lines)}
        before, self.refs = self.refs, now
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return [RefChange(name, before.get(name, NOTHING), now.get(name, NOTHING)) for name in names]

    def move(self, *updates: tuple[str, str]) -> None:
        """Set refs (an all-zero id deletes) in one transaction, each from the value this process knows.

        Raises Transient when somebody else moved one of them.
        """
        lines = ["start"]
        for ref, new in updates:
            if new == NOTHING:
                lines.append(f"delete {ref} {self.refs[ref]}")
            else:
                lines.append(f"update {ref} {new} {self.refs.get(ref, NOTHING)}")
        self._transact([*lines, "prepare", "commit"])
        for ref, new in updates:
            if new == NOTHING:
                self.refs.pop(ref, None)
            else:
                self.refs[ref] = new

    def branch(self, name: str) -> str:
        """Return the tip of a branch, "" where it is gone."""
        return self.refs.get(f"refs/heads/{name}", "")

    def branches(self) -> int:
        """Count the branches."""
        return sum(name.startswith("refs/heads/") for name in self.refs)

    def merge_base(self, left: str, right: str) -> str:
        """Return a best common ancestor, "" where there is none."""
        return history.merge_base(self.objects, left, right)

    def unseen(self, tip: str) -> list[str]:
        """Return the commits of `tip` that were not seen yet, oldest first, and remember them.

        `remember` must have been called before the refs moved.
        """
        self.known = self.known if self.known is not None else set()
        fresh = history.reachable(self.objects, [tip], self.known)
        self.known |= fresh
        return history.newest_first(self.objects, fresh)[::-1]

    def remember(self) -> None:
        """Take every commit that a ref reaches now as seen; asked once, before the first change."""
        if self.known is None:
            self.known = set(self.git("rev-list", "--all").decode().split()) if self.refs else set()

    def diff(self, base: str, head: str, *options: str) -> bytes:
        """Return git's diff text between two commits."""
        arguments = ("diff", "--no-color", "--no-ext-diff", *options, base, head)
        return self.git("-c", "core.quotePath=false", *arguments)

    def numbers(self, base: str, head: str) -> list[int]:
        """Return [additions, deletions, changed files] between two commits."""
        left, right = self.objects.commit(base).tree, self.objects.commit(head).tree
        quick = trees.count_added(self.objects, trees.changes(self.objects, left, right))
        if quick is not None:
            return quick
        rows = [line.split("\t") for line in self.diff(base, head, "--numstat", "-M").decode().splitlines()]
        added, deleted = (sum(int(row[i]) for row in rows if row[i] != "-") for i in (0, 1))
        return [added, deleted, len(rows)]

    def git(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Run git here and return its output; raise Rejected with its last words where it fails."""
        command = ["git", "--git-dir", str(self.path), *arguments]
        done = subprocess.run(command, input=data, capture_output=True, env=git_environment(), check=False)
        if done.returncode:
            raise Rejected(done.stderr.decode("utf-8", "replace").strip() or "git failed", status=409)
        return done.stdout

    def close(self) -> None:
        """End the processes that are kept open."""
        self.objects.close()
        with self._guard:
            if self._mover is not None:
                self._mover.communicate()
                self._mover = None

    def remove(self) -> None:
        """Delete the repository from disk."""
        self.close()
        shutil.rmtree(self.path)

    def _transact(self, lines: list[str]) -> None:
        with self._guard:
            process = self._process()
            if process.stdin is None or process.stdout is None:
                raise Transient("git update-ref has no pipes")
            process.stdin.write(("\n".join(lines) + "\n").encode())
            process.stdin.flush()
            answers = [process.stdout.readline() for _ in ("start", "prepare", "commit")]
            if answers[-1] != b"commit: ok\n":
                process.communicate()
                self._mover = None
                raise Transient("a ref moved meanwhile", hint="ask again")

    def _process(self) -> subprocess.Popen[bytes]:
        if self._mover is None or self._mover.poll() is not None:
            self._mover = subprocess.Popen(
                ["git", "--git-dir", self.path, "update-ref", "--stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=git_environment(),
            )
        return self._mover
