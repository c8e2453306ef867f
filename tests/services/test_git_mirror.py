"""The git mirror against real git over HTTP: many pull requests in few requests, and what can go wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fleetssd.adapters.git_mirror import GitMirror
from fleetssd.adapters.git_mirror.parse import raw_changes
from fleetssd.adapters.git_mirror.process import Repository, object_format
from fleetssd.config import Forge
from fleetssd.diffs import PullDiff
from fleetssd.errors import Misconfigured, Transient
from fleetssd.gitea import MergedPull, PullKey, parse_pull
from tests.e2e.replay_forge import TOKEN, Recording, has_token, replayed

SAMPLES = Path(__file__).parents[1] / "samples" / "gitea"
CONVEYOR = ("merge", "squash-three-commits", "unicode", "binary-and-rename", "from-fork", "head-moved-after-merge")


@dataclass
class Ground:
    """A recording that is served, and a mirror folder."""

    recording: Recording
    folder: Path
    token: Path

    def mirror(self) -> GitMirror:
        """Open the mirrors."""
        return GitMirror(self.folder, Forge(url=self.recording.url, token_file=self.token))

    def pull(self, case: str) -> MergedPull:
        """Return a case's detail as the adapter reads it."""
        return parse_pull(self.recording.detail(case), self.recording.url)

    def git(self, repository: str, *arguments: str) -> str:
        """Run git in a served repository."""
        path = self.recording.repositories / "fleet" / f"{repository}.git"
        who = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@a",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@a",
        }
        done = subprocess.run(
            ["git", "-C", str(path), *arguments],
            check=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], **who},
        )
        return done.stdout.decode().strip()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """Serve the recorded repositories."""
    (tmp_path / "token").write_text(TOKEN)
    with replayed(SAMPLES, tmp_path / "git") as recording:
        yield Ground(recording, tmp_path / "mirrors", tmp_path / "token")


def diffs(ground: Ground, *pulls: MergedPull) -> dict[int, PullDiff | str]:
    """Ask the mirror for the diffs of pull requests of one repository."""
    return ground.mirror().diffs(pulls)


def test_many_pull_requests_are_two_fetches(ground: Ground) -> None:
    """History first, then the files of all diffs together: a fetch is two or three requests, however many pulls."""
    found = diffs(ground, *map(ground.pull, CONVEYOR))
    assert all(isinstance(change, PullDiff) for change in found.values())
    assert len(found) == len(CONVEYOR)
    assert sum(request.startswith("POST") for request in ground.recording.requests) <= 4


def test_again_fetches_nothing_new(ground: Ground) -> None:
    """What is in the mirror is not fetched again, and comes out the same."""
    first = diffs(ground, *map(ground.pull, CONVEYOR))
    ground.recording.requests.clear()
    assert diffs(ground, *map(ground.pull, CONVEYOR)) == first
    assert not [request for request in ground.recording.requests if "fetch" in request]


def test_files_are_text_at_the_head(ground: Ground) -> None:
    """Text files come with their content at the head, binary and deleted ones without."""
    found = diffs(ground, ground.pull("binary-and-rename"))[39]
    assert isinstance(found, PullDiff)
    assert [path for path, _ in found.files] == ["src/new_name.py"]
    assert "assets/icon.bin" in found.changed_paths


def test_parents_of_the_merge_are_told(ground: Ground) -> None:
    """A merge has two parents, a squash one."""
    found = diffs(ground, ground.pull("merge"), ground.pull("squash-three-commits"))
    parents = {number: change.merge_parents for number, change in found.items() if isinstance(change, PullDiff)}
    facts = {case: ground.recording.cases[case]["facts"]["merge_commit_parents"] for case in CONVEYOR}
    assert parents == {2: tuple(facts["merge"]), 5: tuple(facts["squash-three-commits"])}


def test_a_missing_head_refuses_its_own_pull_request_only(ground: Ground) -> None:
    """A head that is gone is found by halving; the others come out."""
    gone = replace(ground.pull("merge"), key=PullKey(ground.recording.url, 2, 999), merge_commit="", merge_base="")
    found = diffs(ground, ground.pull("merge"), gone, ground.pull("unicode"))
    assert found[999] == "head_gone"
    assert isinstance(found[2], PullDiff)
    assert isinstance(found[37], PullDiff)


def test_a_missing_merge_commit_does_not_matter(ground: Ground) -> None:
    """A merge commit that nobody has any more leaves the diff as it is, its parents unknown."""
    found = diffs(ground, replace(ground.pull("squash-three-commits"), merge_commit="1" * 40))[5]
    assert isinstance(found, PullDiff)
    assert found.merge_parents == ()


def test_a_repository_that_is_gone_refuses_its_pull_requests(ground: Ground) -> None:
    """A clone address without a repository is no error of the poll."""
    pull = ground.pull("merge")
    address = f"{ground.recording.url}/fleet/nowhere.git"
    assert diffs(ground, replace(pull, clone_url=address)) == {2: "head_gone"}


def test_the_base_of_a_merge_by_hand_comes_from_git(ground: Ground) -> None:
    """Where the server's merge base is the head itself, the first parent of the merge tells the base."""
    pull = ground.pull("manually-merged-rechecked")
    found = diffs(ground, pull)[8]
    assert isinstance(found, PullDiff)
    assert pull.merge_base == found.head_commit
    assert found.base_commit == ground.recording.cases["manually-merged-rechecked"]["facts"]["base_commit"]


@pytest.mark.parametrize("case", ["autodetected-fast-forward"])
def test_without_a_second_parent_the_base_is_unknown(ground: Ground, case: str) -> None:
    """A fast-forward whose merge base is its head has no base that git could tell: refused, never an empty diff."""
    pull = ground.pull(case)
    head = ground.git("autodetect", "rev-parse", "refs/pull/4/head")
    assert diffs(ground, replace(pull, merge_base=head))[4] == "base_unknown"


def test_an_empty_merge_base_comes_from_git(ground: Ground) -> None:
    """Migrated pull requests have no merge base; the merge commit's first parent tells it."""
    facts = ground.recording.cases["merge"]["facts"]
    found = diffs(ground, replace(ground.pull("merge"), merge_base=""))[2]
    assert isinstance(found, PullDiff)
    assert found.base_commit == facts["base_commit"]
    assert diffs(ground, replace(ground.pull("merge"), merge_base="", merge_commit=""))[2] == "base_unknown"


def test_histories_without_a_common_ancestor_have_no_base(ground: Ground) -> None:
    """Where git finds no merge base, the pull request is refused."""
    tree = ground.git("conveyor", "mktree", "--batch")
    orphan = ground.git("conveyor", "commit-tree", tree or "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "-m", "x")
    child = ground.git("conveyor", "commit-tree", f"{orphan}^{{tree}}", "-p", orphan, "-m", "y")
    ground.git("conveyor", "update-ref", "refs/heads/orphan", child)
    pull = replace(ground.pull("merge"), merge_base="", merge_commit=child)
    assert diffs(ground, pull)[2] == "base_unknown"


def test_names_of_any_bytes_are_read(ground: Ground) -> None:
    """A file name with a newline, a quote and a byte that is no UTF-8 is one path."""
    name = b'od"d\n\xff.txt'
    path = ground.recording.repositories / "fleet" / "conveyor.git"
    base = ground.git("conveyor", "rev-parse", "refs/heads/main")
    blob = subprocess.run(
        ["git", "-C", str(path), "hash-object", "-w", "--stdin"], input=b"x\n", capture_output=True, check=True
    )
    entry = b"100644 blob " + blob.stdout.strip() + b"\t" + name + b"\0"
    tree = (
        subprocess.run(["git", "-C", str(path), "mktree", "-z"], input=entry, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )
    head = ground.git("conveyor", "commit-tree", tree, "-p", base, "-m", "odd")
    ground.git("conveyor", "update-ref", "refs/pull/500/head", head)
    pull = replace(ground.pull("merge"), key=PullKey(ground.recording.url, 2, 500), merge_base=base, merge_commit=head)
    found = diffs(ground, pull)[500]
    assert isinstance(found, PullDiff)
    assert name.decode("utf-8", errors="surrogateescape") in found.changed_paths


def test_symlinks_are_not_followed_or_read(ground: Ground) -> None:
    """A symbolic link in a pull request is a mode in the diff, never a file that is read."""
    path = ground.recording.repositories / "fleet" / "conveyor.git"
    base = ground.git("conveyor", "rev-parse", "refs/heads/main")
    blob = subprocess.run(
        ["git", "-C", str(path), "hash-object", "-w", "--stdin"], input=b"/etc/passwd", capture_output=True, check=True
    )
    entry = b"120000 blob " + blob.stdout.strip() + b"\tlink\0"
    tree = (
        subprocess.run(["git", "-C", str(path), "mktree", "-z"], input=entry, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )
    head = ground.git("conveyor", "commit-tree", tree, "-p", base, "-m", "link")
    ground.git("conveyor", "update-ref", "refs/pull/501/head", head)
    pull = replace(ground.pull("merge"), key=PullKey(ground.recording.url, 2, 501), merge_base=base, merge_commit=head)
    found = diffs(ground, pull)[501]
    assert isinstance(found, PullDiff)
    assert b"new file mode 120000" in found.diff
    assert "link" not in dict(found.files)


def test_a_wrong_token_is_a_misconfiguration(ground: Ground) -> None:
    """Where git is refused, the error says so and does not hold the token."""
    address = ground.pull("merge").clone_url.replace("127.0.0.1", "localhost")
    with pytest.raises(Misconfigured) as refused:  # the login is bound to the configured address
        diffs(ground, replace(ground.pull("merge"), clone_url=address))
    assert not has_token(refused.value.message)


def test_a_missing_token_is_a_misconfiguration(ground: Ground) -> None:
    """The file is named."""
    ground.token.unlink()
    with pytest.raises(Misconfigured, match="token"):
        diffs(ground, ground.pull("merge"))


def test_a_silent_server_is_transient(ground: Ground) -> None:
    """Where nobody listens, the next poll tries again."""
    pull = replace(ground.pull("merge"), clone_url="http://127.0.0.1:9/fleet/conveyor.git")
    with pytest.raises(Transient):
        diffs(ground, pull)


def test_other_protocols_are_not_spoken(ground: Ground) -> None:
    """A clone address that is no http address reaches nothing, not even a folder of this machine."""
    here = ground.recording.repositories / "fleet" / "conveyor.git"
    with pytest.raises(Transient, match="not allowed"):
        diffs(ground, replace(ground.pull("merge"), clone_url=f"file://{here}"))


def test_hooks_and_settings_of_the_machine_do_not_run(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook in a mirror, and the user's own git settings, have no effect."""
    diffs(ground, ground.pull("merge"))
    witness = tmp_path / "ran"
    hook = ground.folder / "2.git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {witness}\n")
    hook.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        "[core]\n\tquotePath = true\n[diff]\n\tnoprefix = true\n\tmnemonicPrefix = true\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    found = diffs(ground, ground.pull("unicode"))[37]
    assert isinstance(found, PullDiff)
    assert "a/docs/日本.md".encode() in found.diff
    assert not witness.exists()


def test_the_token_is_in_no_file(ground: Ground) -> None:
    """Neither bare nor encoded."""
    diffs(ground, ground.pull("merge"))
    files = [path for path in ground.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if has_token(path.read_bytes().decode("latin-1"))]


def test_raw_output_is_read_by_position() -> None:
    """A path that looks like git's own lines is only a path."""
    one, two = "1" * 40, "2" * 40
    line = f"{one} {two}\n:100644 100755 {one} {two} M\0{two} {one}\n:x\0{two} {one}\n".encode()
    found = raw_changes(line)
    assert [change.path for change in found[one, two]] == [f"{two} {one}\n:x"]
    assert found[two, one] == ()


@pytest.mark.parametrize(("digits", "names"), [(40, "sha1"), (64, "sha256")])
def test_a_mirror_names_its_objects_as_the_server_does(tmp_path: Path, digits: int, names: str) -> None:
    """A repository whose commits have 64 digits could not be fetched into a mirror of the other kind."""
    mirror = Repository.open(tmp_path / "1.git", "http://forge/a/b.git", {}, object_format("0" * digits))
    assert mirror.read("rev-parse", "--show-object-format").decode().strip() == names
