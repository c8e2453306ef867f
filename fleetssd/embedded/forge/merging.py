"""The merge styles: from the base's tip and the head's commits to one new tip of the base branch."""

from __future__ import annotations

from dataclasses import dataclass

from fleetssd.embedded.forge import history, trees
from fleetssd.embedded.forge.bare import BareRepository
from fleetssd.errors import Rejected

STYLES = ("merge", "rebase", "rebase-merge", "squash", "fast-forward-only", "manually-merged")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A merge to make; `merger` and `author` are `Name <mail> seconds zone`, `message` the whole commit message."""

    style: str
    base: str
    head: str
    merger: str
    author: str
    message: str


def make(repository: BareRepository, wanted: Wanted) -> str:
    """Write what the style needs and return the merge commit, which is the base branch's next tip.

    Raises Rejected (409) for a conflict or for a head that cannot be fast-forwarded to.
    """
    objects = repository.objects
    common = repository.merge_base(wanted.base, wanted.head)
    if not common:
        raise Rejected("PR is not mergeable: no common ancestor", status=409)
    if wanted.style == "fast-forward-only":
        if common != wanted.base:
            raise Rejected("Fast-Forward-Only merge failed: branches diverge", status=409)
        return wanted.head
    if wanted.style in ("rebase", "rebase-merge"):
        tip = _replay(repository, common, wanted)
        if wanted.style == "rebase":
            return tip
        parents, tree = [wanted.base, tip], objects.commit(tip).tree
    else:
        tree = merge_trees(repository, common, wanted.base, wanted.head)
        parents = [wanted.base] if wanted.style == "squash" else [wanted.base, wanted.head]
    return objects.write_commit(tree, parents, wanted.author, wanted.merger, wanted.message)


def merge_trees(repository: BareRepository, base: str, ours: str, theirs: str) -> str:
    """Merge the trees of three commits and return the tree's id; raise Rejected (409) where they conflict."""
    objects = repository.objects
    sides = [objects.commit(name).tree for name in (base, ours, theirs)]
    try:
        return trees.merge(objects, *sides)
    except trees.Conflict:
        return _merge_by_git(repository, *sides)


def mergeable(repository: BareRepository, base: str, head: str) -> bool:
    """Tell whether a merge of head into base would go through."""
    common = repository.merge_base(base, head)
    try:
        return bool(common) and bool(merge_trees(repository, common, base, head))
    except Rejected:
        return False


def _replay(repository: BareRepository, common: str, wanted: Wanted) -> str:
    """Put the head's own commits on top of the base and return the last; merges among them are left out."""
    if common == wanted.base:
        return wanted.head
    objects, tip = repository.objects, wanted.base
    for name in reversed(history.between(objects, wanted.base, wanted.head)):
        commit = objects.commit(name)
        if len(commit.parents) != 1:
            continue
        tree = merge_trees(repository, commit.parents[0], tip, name)
        if tree != objects.commit(tip).tree:
            tip = objects.write_commit(tree, [tip], commit.author, wanted.merger, commit.message)
    return tip


def _merge_by_git(repository: BareRepository, base: str, ours: str, theirs: str) -> str:
    """Let git merge files and follow renames: three throw-away commits give it the base that is meant."""
    objects = repository.objects
    nobody = "merge <merge@localhost> 0 +0000"
    root = objects.write_commit(base, [], nobody, nobody, "base\n")
    sides = [objects.write_commit(tree, [root], nobody, nobody, "side\n") for tree in (ours, theirs)]
    try:
        return repository.git("merge-tree", "--write-tree", *sides).decode().split("\n", 1)[0]
    except Rejected as error:
        raise Rejected("merge conflict: both sides changed the same lines", status=409) from error
