"""The git mirror's guards: room on the disk, hostile repositories, and reverts that were pushed to a real forge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleetssd import config, wiring
from fleetssd.adapters.git_mirror import GitMirror
from fleetssd.adapters.git_mirror.process import Repository
from fleetssd.adapters.git_mirror.quota import Quota
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.diffs import PullDiff
from fleetssd.gitea import MergedPull
from fleetssd.operations.ingest import poll_once
from tests.contract.forges import Desk, Ground, embedded


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Run an embedded forge."""
    with embedded(tmp_path_factory.mktemp("forge")) as started:
        yield started


@pytest.fixture
def forge(ground: Ground, tmp_path: Path) -> Iterator[GiteaForge]:
    """Open the forge's adapter."""
    (tmp_path / "token").write_text(ground.maintainer.token)
    made = GiteaForge(config.Forge(url=ground.url, token_file=tmp_path / "token"))
    yield made
    made.close()


def mirror(ground: Ground, folder: Path, quota: int = 0) -> GitMirror:
    """Open mirrors with a quota in megabytes."""
    settings = config.Forge(url=ground.url, token_file=folder / "token", mirror_quota_mb=quota)
    return GitMirror(folder / "mirrors", settings)


def merged(desk: Desk, forge: GiteaForge, files: dict[str, str], branch: str = "work") -> MergedPull:
    """Merge a change and return its detail."""
    desk.commit(branch, files, "change it")
    number = desk.pull(branch, "no link")
    assert desk.merge(number, "squash").status_code == 200
    found = forge.pull(desk.place, number)
    assert found is not None
    return found


def one(ground: Ground, folder: Path, pull: MergedPull) -> PullDiff:
    """Return the diff of one pull request."""
    found = mirror(ground, folder).diffs([pull])[pull.key.number]
    assert isinstance(found, PullDiff)
    return found


def test_a_hostile_repository_runs_nothing(ground: Ground, forge: GiteaForge, tmp_path: Path) -> None:
    """Filters, textconv, external diffs, submodules, LFS pointers and hooks in what is fetched are only text."""
    witness = tmp_path / "ran"
    run = f"!touch {witness}; cat"
    files = {
        ".gitattributes": "* filter=evil diff=evil merge=evil text eol=crlf\n*.bin -text filter=lfs diff=lfs\n",
        ".lfsconfig": f"[lfs]\n\turl = file://{tmp_path}\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = {run}\n[diff "evil"]\n\ttextconv = {run}\n\tcommand = {run}\n',
        "hooks/post-checkout": f"#!/bin/sh\ntouch {witness}\n",
        "config": f'[core]\n\tfsmonitor = "{run}"\n\thooksPath = hooks\n',
        "a.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n",
        "a.py": "A = 1\n",
    }
    pull = merged(ground.repository(), forge, files)
    found = one(ground, tmp_path, pull)
    assert not witness.exists()
    assert dict(found.files)["a.py"] == "A = 1\n"  # no eol conversion
    assert dict(found.files)["a.bin"].startswith("version https://git-lfs")
    assert b"+A = 1\n" in found.diff


@pytest.mark.parametrize("disabled", [False, True])
def test_only_the_files_of_the_change_are_fetched(
    ground: Ground, forge: GiteaForge, tmp_path: Path, *, disabled: bool
) -> None:
    """What the change does not touch stays where it is; a server without partial clones gives everything instead."""
    desk = ground.repository()
    desk.git("fetch", "-q", "origin")
    desk.commit("before", {"large.txt": "untouched\n"}, "before")
    assert desk.merge(desk.pull("before", "no link"), "squash").status_code == 200
    desk.git("fetch", "-q", "origin")
    # Of a small repository everything is fetched at once, which is a request less.
    pull = replace(merged(desk, forge, {"a.py": "A = 1\n"}), size_kb=None)
    assert ground.server is not None
    ground.server.state.quirks.disable_partial_clone = disabled
    try:
        found = one(ground, tmp_path, pull)
    finally:
        ground.server.state.quirks.disable_partial_clone = False
    assert dict(found.files) == {"a.py": "A = 1\n"}
    bare = Repository(tmp_path / "mirrors" / f"{pull.key.repository_id}.git", {})
    objects = bare.read("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    untouched = desk.git("rev-parse", "origin/main:large.txt")
    assert (untouched.encode() in objects) is disabled


def test_a_submodule_is_not_fetched(ground: Ground, forge: GiteaForge, tmp_path: Path) -> None:
    """A submodule's address is never asked; its change is one line of a diff, and refused."""
    desk = ground.repository()
    other = ground.repository()
    head = other.git("rev-parse", "HEAD")
    desk.git("checkout", "-q", "-b", "work", "origin/main")
    (desk.clone / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = {ground.url}/{other.place}.git\n')
    desk.git("add", ".gitmodules")
    desk.git("update-index", "--add", "--cacheinfo", f"160000,{head},x")
    desk.git("commit", "-q", "-m", "module")
    desk.git("push", "-q", "origin", "work")
    number = desk.pull("work", "no link")
    assert desk.merge(number, "squash").status_code == 200
    pull = forge.pull(desk.place, number)
    assert pull is not None
    found = one(ground, tmp_path, pull)
    assert b"160000" in found.diff
    assert sorted(path.name for path in (tmp_path / "mirrors").iterdir()) == [f"{pull.key.repository_id}.git"]


def test_room_is_made_by_what_was_not_used_for_longest(tmp_path: Path) -> None:
    """Over the limit the oldest use goes, never the mirror in hand while another can; use moves a mirror up."""
    quota = Quota(tmp_path, 30 * 4096)
    paths = [tmp_path / f"{name}.git" for name in "abc"]
    for age, path in enumerate(paths):
        path.mkdir()
        (path / "pack").write_bytes(b"x" * 4096 * 10)
        os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "z.git.going").mkdir()
    assert quota.used(paths[0]) == []
    assert not (tmp_path / "z.git.going").exists()
    late = tmp_path / "d.git"
    late.mkdir()
    (late / "pack").write_bytes(b"x" * 4096 * 20)
    assert quota.used(late) == [paths[1], paths[2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.git", "d.git"]


def test_a_mirror_larger_than_all_the_room_goes_too(tmp_path: Path) -> None:
    """Its answer was read already; nothing is kept. Without a limit everything stays."""
    only = tmp_path / "a.git"
    only.mkdir()
    (only / "pack").write_bytes(b"x" * 9000)
    assert Quota(tmp_path, 0).used(only) == []
    assert Quota(tmp_path, 5).used(only) == [only]
    assert list(tmp_path.iterdir()) == []


def test_an_evicted_mirror_is_fetched_again(ground: Ground, forge: GiteaForge, tmp_path: Path) -> None:
    """The next diff of its repository comes out the same."""
    pull = merged(ground.repository(), forge, {"a.py": "A = 1\n"})
    small = mirror(ground, tmp_path)
    small.quota.limit = 1
    first = small.diffs([pull])
    assert list((tmp_path / "mirrors").iterdir()) == []
    assert small.diffs([pull]) == first


def test_a_push_that_reverts_is_found_on_a_real_forge(ground: Ground, forge: GiteaForge, tmp_path: Path) -> None:
    """Git's own revert, pushed straight to the branch, takes the record out; on another branch it would not."""
    desk = ground.repository()
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, "add a")
    number = desk.pull("work", f"Closes #{issue}", title="Add a")
    assert desk.merge(number, "squash").status_code == 200
    pull = forge.pull(desk.place, number)
    assert pull is not None
    table = {
        "data_dir": str(tmp_path),
        "forge": {"url": ground.url, "token_file": str(tmp_path / "token")},
        "fleet": {"agents": ["agent-*"], "repositories": [desk.place]},
    }
    settings = parse(table)
    store, secrets = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}"), wiring.open_secrets(settings)
    mirrors = mirror(ground, tmp_path)

    def poll() -> tuple[str, ...]:
        upto = next(forge.sweep(lambda _: None)).upto
        assert upto is not None
        poll_once(settings, forge, mirrors, store, secrets, upto, lambda *_: None)
        return next(record.reasons for record in store.records() if record.pull == number)

    try:
        assert poll() == ()
        assert ground.server is not None
        desk.git("fetch", "-q", "origin")
        desk.git("checkout", "-q", "-B", "aside", "origin/main")
        message = f'Revert "Add a (#{number})"\n\nThis reverts commit {pull.merge_commit}.'
        desk.git("rm", "-q", "a.py")
        desk.git("commit", "-q", "-m", message)
        ground.server.state.quirks.clock_offset += 60
        desk.git("push", "-q", "origin", "aside")
        assert ("commit_ref", "none") in desk.references(number)
        assert poll() == ()
        ground.server.state.quirks.clock_offset += 60  # the forge's times are whole seconds
        desk.git("push", "-q", "origin", "aside:main")
        desk.maintainer.post(f"{desk.api}/issues/{number}/comments", {"body": "Taken back."})
        assert poll() == ("reverted_later",)
    finally:
        store.close()
    assert mirrors.contained(replace(pull, branch="gone"), [pull.merge_commit]) is False
    assert mirrors.contained(replace(pull, branch="a\nb"), [pull.merge_commit]) is False
