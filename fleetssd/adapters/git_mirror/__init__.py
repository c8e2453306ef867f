"""git behind the mirror port: one bare, blobless mirror a repository, and few processes for many pull requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fleetssd import config
from fleetssd.adapters.git_mirror.checkout import changed_files, write_tree
from fleetssd.adapters.git_mirror.parse import REGULAR, Change, Commit, commits, objects, patches, raw_changes, utf8
from fleetssd.adapters.git_mirror.process import ADDRESS, MissingRef, Repository, login_environment, object_format
from fleetssd.adapters.git_mirror.quota import Quota
from fleetssd.admission import NotAdmittedError
from fleetssd.diffs import PullDiff
from fleetssd.errors import Rejected
from fleetssd.gitea import MergedPull
from fleetssd.records import Record
from fleetssd.solutions import Whole

SMALL_KB = 1024
"""A repository up to this size is fetched with its files: a second request for some of them costs more."""
MAX_FILE_BYTES = 1 << 20
"""Larger files at the head are not read as text."""


class GitMirror:
    """Mirrors in a folder, one for each repository id.

    Hooks, filters, submodules and LFS of a fetched repository never run: the mirrors are bare and read by git alone.
    """

    def __init__(self, folder: Path, settings: config.Forge) -> None:
        self.folder, self.settings = folder, settings
        self.quota = Quota(folder, settings.mirror_quota_mb << 20)

    def diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Fetch the heads of a repository's pull requests at once; the value is the diff or a refusal reason code.

        Raises Transient where the server cannot be reached and Misconfigured where it does not take the token.
        """
        mirror = self._of_pull(pulls[0])
        try:
            return self._read(mirror, pulls)
        finally:
            self.quota.used(mirror.path)

    def _read(self, mirror: Repository, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        heads = _fetch(mirror, pulls)
        known = _read_commits(mirror, heads, pulls)
        out: dict[int, PullDiff | str] = {}
        pairs: dict[int, tuple[Commit, Commit]] = {}
        for pull in pulls:
            found = _ends(mirror, pull, heads, known)
            if isinstance(found, str):
                out[pull.key.number] = found
            else:
                pairs[pull.key.number] = found
        return out | _diffs(mirror, pairs, {pull.key.number: known.get(pull.merge_commit) for pull in pulls})

    def message(self, pull: MergedPull, commit: str) -> str:
        """Return a commit's message as git tells it, empty where git has no such commit."""
        mirror = self._of_pull(pull)
        with suppress(Rejected):
            mirror.fetch([commit])
        found = objects(mirror.read("cat-file", "--batch", stdin=_lines([commit])))
        body = next((body for kind, body in found.values() if kind == "commit"), b"")
        return body.partition(b"\n\n")[2].decode("utf-8", errors="replace")

    def contained(self, pull: MergedPull, commits: Sequence[str]) -> bool:
        """Tell whether one of these commits is in the branch that a pull request was merged into."""
        mirror = self._of_pull(pull)
        ref = f"refs/fleet/heads/{pull.branch}"
        if not pull.branch or not pull.branch.isprintable() or " " in pull.branch:
            return False
        try:
            mirror.fetch([f"+refs/heads/{pull.branch}:{ref}", *commits])
            return any(
                mirror.read("for-each-ref", f"--contains={commit}", "--format=%(refname)", ref) for commit in commits
            )
        except Rejected:  # the branch is gone, or a commit is in no branch any more
            return False

    def check_out(self, record: Record, folder: Path) -> int:
        """Write the files of a record's base commit into an empty folder and return their size in bytes.

        Raises NotAdmittedError where the commit is gone or must not be written to disk.
        """
        with self._of(record) as mirror:
            return write_tree(mirror, record.base_commit, folder)

    def gold(self, record: Record) -> tuple[Whole, ...]:
        """Return every file that a record's change touches, whole, as it is after it; bytes are surrogate escapes."""
        with self._of(record) as mirror:
            return changed_files(mirror, record.base_commit, record.head_commit)

    @contextmanager
    def _of(self, record: Record) -> Iterator[Repository]:
        """Open the mirror of a record's repository with both of its commits in it."""
        known = self.folder / f"{record.repository_id}.git" / ADDRESS  # a repository may have been renamed since
        url = known.read_text() if known.exists() else f"{record.instance}/{record.repository}.git"
        mirror = self._open(url, record.repository_id, record.merge_commit)
        ends = {record.base_commit, record.head_commit}
        try:
            if not ends <= mirror.here(ends):
                _fetch_ends(mirror, record.pull, ends)
            yield mirror
        except MissingRef as error:
            raise NotAdmittedError("tree_gone", error.message) from None
        finally:
            self.quota.used(mirror.path)

    def _of_pull(self, pull: MergedPull) -> Repository:
        return self._open(pull.clone_url, pull.key.repository_id, pull.merge_commit)

    def _open(self, clone_url: str, repository_id: int, commit: str) -> Repository:
        """Open a repository's mirror, which names its objects as `commit` is named."""
        environment = login_environment(self.settings.url, self.settings.token_file)
        return Repository.open(self.folder / f"{repository_id}.git", clone_url, environment, object_format(commit))


def _fetch(mirror: Repository, pulls: Sequence[MergedPull]) -> dict[int, str]:
    """Fetch what the diffs need of the history and return the frozen heads: {number: commit}."""
    numbers = [pull.key.number for pull in pulls]
    commits = {sha for pull in pulls for sha in (pull.merge_base, pull.merge_commit) if sha}
    try:
        small = all(pull.size_kb is not None and pull.size_kb <= SMALL_KB for pull in pulls)
        mirror.fetch([*map(_head, numbers), *sorted(commits)], whole=small)
    except MissingRef:
        # A commit that nothing refers to any more, or a server that gives out no single commits: branches have most.
        _fetch_some(mirror, numbers)
        with suppress(MissingRef):
            mirror.fetch(["+refs/heads/*:refs/fleet/heads/*"])
    return mirror.heads(numbers)


def _fetch_ends(mirror: Repository, number: int, ends: set[str]) -> None:
    """Fetch a pull request's head and its base, by themselves or with the branches that lead to them."""
    with suppress(MissingRef):
        mirror.fetch([_head(number), *sorted(ends)])
    if not ends <= mirror.here(ends):
        with suppress(MissingRef):
            mirror.fetch([_head(number)])
        mirror.fetch(["+refs/heads/*:refs/fleet/heads/*"])
    if not ends <= mirror.here(ends):
        raise MissingRef("its commits are not in the repository any more")


def _fetch_some(mirror: Repository, numbers: Sequence[int]) -> None:
    """Fetch the heads that there are, halving the list until the missing ones stand alone."""
    try:
        mirror.fetch([_head(number) for number in numbers])
    except MissingRef:
        if len(numbers) > 1:
            middle = len(numbers) // 2
            _fetch_some(mirror, numbers[:middle])
            _fetch_some(mirror, numbers[middle:])


def _head(number: int) -> str:
    return f"+refs/pull/{number}/head:refs/fleet/pull/{number}"


def _read_commits(mirror: Repository, heads: dict[int, str], pulls: Sequence[MergedPull]) -> dict[str, Commit]:
    wanted = {*heads.values(), *(sha for pull in pulls for sha in (pull.merge_base, pull.merge_commit) if sha)}
    return commits(mirror.read("cat-file", "--batch", stdin=_lines(sorted(wanted))))


def _ends(
    mirror: Repository, pull: MergedPull, heads: dict[int, str], known: dict[str, Commit]
) -> tuple[Commit, Commit] | str:
    """Return the commits between which the pull request's own change lies, or why they are not known.

    The base is the server's merge base. Where that is the head itself (a merge by hand that was checked again), it is
    the merge base of the head and the merge commit's first parent, if that is a commit with two parents.
    """
    head = known.get(heads.get(pull.key.number, ""))
    if head is None:
        return "head_gone"
    merge = known.get(pull.merge_commit)
    base = pull.merge_base
    if base == head.sha or not base:
        parents = merge.parents if merge else ()
        if not parents or (base and len(parents) != 2):
            return "base_unknown"
        base = mirror.merge_base(parents[0], head.sha)
    if base not in known:
        known |= commits(mirror.read("cat-file", "--batch", stdin=_lines([base])))
    if base not in known or base == head.sha:
        return "base_unknown"
    return known[base], head


def _diffs(
    mirror: Repository, pairs: dict[int, tuple[Commit, Commit]], merges: dict[int, Commit | None]
) -> dict[int, PullDiff | str]:
    """Read the diffs and the changed files of many pull requests with a handful of processes."""
    if not pairs:
        return {}
    trees = {number: (base.tree, head.tree) for number, (base, head) in pairs.items()}
    stdin = _lines(f"{base} {head}" for base, head in trees.values())
    changes = raw_changes(mirror.read("diff-tree", "--stdin", "-r", "--raw", "-z", "--no-renames", stdin=stdin))
    mirror.fetch_blobs({blob for found in changes.values() for change in found for blob in change.blobs})
    text = patches(mirror.read("diff-tree", "--stdin", "-r", "-p", "-M", "--no-color", "--no-ext-diff", stdin=stdin))
    contents = _contents(mirror, {change for found in changes.values() for change in found})
    out: dict[int, PullDiff | str] = {}
    for number, (base, head) in pairs.items():
        merge, found = merges.get(number), changes.get(trees[number], ())
        out[number] = PullDiff(
            base_commit=base.sha,
            head_commit=head.sha,
            diff=text.get(trees[number], b""),
            changed_paths=tuple(change.path for change in found),
            files=tuple(_texts(found, contents, old=False)),
            merge_parents=merge.parents if merge else (),
            before=tuple(_texts(found, contents, old=True)),
            executable=tuple(change.path for change in found if change.new_mode == "100755"),
        )
    return out


def _contents(mirror: Repository, changes: set[Change]) -> dict[str, str]:
    """Return the text of every regular file of the changes, by blob; binary and large ones are left out."""
    blobs = sorted({blob for change in changes for blob in change.texts})
    sizes = mirror.read("cat-file", "--batch-check", stdin=_lines(blobs)).decode().split("\n")
    small = [line.split()[0] for line in sizes if line and line.split()[-1].isdigit() and _size(line) <= MAX_FILE_BYTES]
    found = objects(mirror.read("cat-file", "--batch", stdin=_lines(small)))
    return {name: text for name, (_, body) in found.items() if (text := utf8(body)) is not None}


def _texts(changes: Iterable[Change], contents: dict[str, str], *, old: bool) -> Iterable[tuple[str, str]]:
    """Return (path, text) of one side of a change; a link whose target is some file's text is still no file."""
    for change in changes:
        mode, blob = (change.old_mode, change.old) if old else (change.new_mode, change.new)
        if blob in contents and mode in REGULAR:
            yield change.path, contents[blob]


def _size(line: str) -> int:
    return int(line.rsplit(maxsplit=1)[-1])


def _lines(items: Iterable[str]) -> bytes:
    return "".join(f"{item}\n" for item in items).encode()
