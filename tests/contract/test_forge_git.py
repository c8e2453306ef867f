"""The forge's own reading and writing of git data, held against git itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.embedded.forge import history, merging, trees
from fleetssd.embedded.forge.bare import NOTHING, BareRepository
from fleetssd.embedded.forge.merging import Wanted
from fleetssd.errors import Rejected, Transient

WHO = "agent-1 <agent-1@fleet.test>"
SLOW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GRAPHS = st.lists(st.lists(st.integers(0, 10**6), max_size=2), min_size=2, max_size=14)
FILES = st.dictionaries(
    st.sampled_from(["a", "b", "dir/a", "dir/b", "dir/deep/c", "dir-x", "z"]),
    st.sampled_from("12345"),
    max_size=5,
)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[BareRepository]:
    """Make an empty repository."""
    made = BareRepository(tmp_path / "r.git")
    made.create("main")
    yield made
    made.close()


def commit(bare: BareRepository, files: dict[str, str], parents: list[str], seconds: int) -> str:
    """Write a commit of whole files."""
    objects = bare.objects
    folders: dict[str, dict[bytes, tuple[str, str]]] = {"": {}}
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name.encode()] = ("100644", objects.write("blob", text.encode()))
        while folder:
            folder = folder.rpartition("/")[0]
            folders.setdefault(folder, {})
    for folder in sorted(folders, key=lambda name: (name.count("/"), name != ""), reverse=True):
        if folder:
            parent, _, name = folder.rpartition("/")
            folders[parent][name.encode()] = ("40000", objects.write_tree(folders[folder]))
    tree = objects.write_tree(folders[""])
    return objects.write_commit(tree, parents, f"{WHO} {seconds} +0000", f"{WHO} {seconds} +0000", f"c{seconds}\n")


@SLOW
@given(graph=GRAPHS, spread=st.sampled_from([0, 1, -1]))
def test_ancestry_is_what_git_says(bare: BareRepository, graph: list[list[int]], spread: int) -> None:
    """Merge base, ancestry and `between` agree with git on any graph, also where dates run backwards."""
    made: list[str] = []
    for number, picks in enumerate(graph):
        parents = sorted({made[pick % len(made)] for pick in picks}) if made else []
        made.append(commit(bare, {"a": str(number)}, parents, 1000 + spread * number))
    left, right = made[-1], made[len(made) // 2]
    command = ["git", "--git-dir", bare.path, "merge-base", "--all", left, right]
    best = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    found = history.merge_base(bare.objects, left, right)
    assert found in best if best else found == ""
    assert history.is_ancestor(bare.objects, right, left) is (right in best)
    listed = bare.git("rev-list", f"{right}..{left}").decode().split()
    between = history.between(bare.objects, right, left)
    assert sorted(between) == sorted(listed)
    order = {name: index for index, name in enumerate(between)}
    for name in between:
        assert all(order[p] > order[name] for p in bare.objects.commit(name).parents if p in order)


@SLOW
@given(base=FILES, ours=FILES, theirs=FILES)
def test_a_merge_is_gits_merge(
    bare: BareRepository, base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    """Where our path-by-path merge succeeds and nothing is renamed, git's merge gives the same tree."""
    base, ours, theirs = ({path: f"{path} {text}" for path, text in side.items()} for side in (base, ours, theirs))
    root = commit(bare, base, [], 1)
    sides = [commit(bare, side, [root], 2 + index) for index, side in enumerate((ours, theirs))]
    ids = [bare.objects.commit(name).tree for name in (root, *sides)]
    try:
        merged = trees.merge(bare.objects, *ids)
    except trees.Conflict:
        return
    command = [
        "git",
        "--git-dir",
        bare.path,
        "-c",
        "merge.renames=false",
        "merge-tree",
        "--write-tree",
        *sides,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, merged)
    assert bare.git("fsck", "--no-dangling").decode() == ""


@SLOW
@given(old=FILES, new=FILES)
def test_changes_are_what_git_lists(bare: BareRepository, old: dict[str, str], new: dict[str, str]) -> None:
    """The changed paths and their counts are git's."""
    left, right = commit(bare, old, [], 1), commit(bare, new, [], 2)
    ids = [bare.objects.commit(name).tree for name in (left, right)]
    listed = bare.diff(left, right, "--name-only", "--no-renames").decode().split()
    assert sorted(change.path for change in trees.changes(bare.objects, *ids)) == sorted(listed)
    stat = [line.split("\t") for line in bare.diff(left, right, "--numstat", "-M").decode().splitlines()]
    assert bare.numbers(left, right) == [
        sum(int(r[0]) for r in stat),
        sum(int(r[1]) for r in stat),
        len(stat),
    ]


def test_a_rename_on_one_side_is_followed(bare: BareRepository) -> None:
    """What path-by-path merging cannot do is left to git: an edit follows its file to the new name."""
    text = "".join(f"line {number}\n" for number in range(20))
    root = commit(bare, {"old.txt": text}, [], 1)
    ours = commit(bare, {"new.txt": text}, [root], 2)
    theirs = commit(bare, {"old.txt": text.replace("line 3", "LINE 3")}, [root], 3)
    made = merging.make(bare, Wanted("merge", ours, theirs, f"{WHO} 4 +0000", f"{WHO} 4 +0000", "m\n"))
    assert b"LINE 3" in bare.git("show", f"{made}:new.txt")


def test_a_conflict_is_rejected(bare: BareRepository) -> None:
    """Both sides changing one line is a conflict, in every style that has to merge."""
    root = commit(bare, {"a": "1\n"}, [], 1)
    sides = [commit(bare, {"a": text}, [root], 2) for text in ("2\n", "3\n")]
    for style in ("merge", "squash", "rebase"):
        with pytest.raises(Rejected, match="conflict"):
            merging.make(bare, Wanted(style, *sides, f"{WHO} 4 +0000", f"{WHO} 4 +0000", "m\n"))


def test_refs_move_together_or_not_at_all(bare: BareRepository) -> None:
    """A ref that somebody else moved stops the whole transaction; the next one works again."""
    first, second = commit(bare, {"a": "1"}, [], 1), commit(bare, {"a": "2"}, [], 2)
    bare.move(("refs/heads/main", first), ("refs/heads/other", first))
    bare.git("update-ref", "refs/heads/other", second)
    with pytest.raises(Transient):
        bare.move(("refs/heads/main", second), ("refs/heads/other", second))
    assert bare.refresh() == [("refs/heads/other", first, second)]
    assert bare.branch("main") == first
    bare.move(("refs/heads/main", second), ("refs/heads/other", NOTHING))
    assert bare.git("for-each-ref", "--format=%(refname)").decode().split() == ["refs/heads/main"]


def test_unseen_commits_are_named_once(bare: BareRepository) -> None:
    """A commit is new once, oldest first, and never again through another branch."""
    bare.remember()
    first = commit(bare, {"a": "1"}, [], 1)
    second = commit(bare, {"a": "2"}, [first], 2)
    assert bare.unseen(second) == [first, second]
    assert bare.unseen(first) == []
