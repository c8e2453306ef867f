"""Grounds of held-out problems on disk: made whole or not at all, shared where they may be, making room for others."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fleetssd.adapters.grounds import KEPT_SECONDS, FolderFiles, GroundFolder
from fleetssd.admission import NotAdmittedError
from fleetssd.changes import LINK
from fleetssd.checks import Preparation
from fleetssd.records import Record
from fleetssd.solutions import EXECUTABLE, File, Whole
from tests.contract.stores import record

MAKE = Preparation("make deps", network=False)
PIXEL = "\udc89PNG\udcff"


@dataclass
class Maker:
    """Checks out and prepares on demand, and remembers how often."""

    files: dict[str, str] = field(default_factory=lambda: {"app.py": "x = 1\n", "deps.lock": "one\n"})
    checked_out: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    size: int = 0
    failure: Exception | None = None

    def check_out(self, one: Record, folder: Path) -> int:
        """Write the files."""
        self.checked_out.append(one.base_commit[0])
        for path, text in self.files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        return self.size or sum(map(len, self.files.values()))

    def gold(self, one: Record) -> tuple[Whole, ...]:
        """Return a change with a binary file and a deletion."""
        return (Whole("app.py", File("x = 2\n")), Whole("icon.png", File(PIXEL)), Whole("old.py", None))

    def prepare(self, preparation: Preparation, work: Path, environment: Path) -> None:
        """Leave something in both folders, or fail half-way."""
        self.prepared.append(preparation.command)
        (work / "built").write_text(preparation.command)
        if self.failure:
            raise self.failure
        (environment / "installed").write_text(preparation.command)


def folder(tmp_path: Path, maker: Maker, limit: int = 0) -> GroundFolder:
    """Open the cache, as each process does."""
    return GroundFolder(tmp_path / "grounds", limit, maker.check_out, maker.gold, maker)


def of(commit: str) -> Record:
    """Return a record that starts from a commit."""
    return record(ord(commit), base_commit=commit * 40, state="held_out")


def test_a_ground_is_made_once(tmp_path: Path) -> None:
    """Another process finds it; without a command nothing is prepared; bytes and deletions of the change survive."""
    maker = Maker()
    found = [folder(tmp_path, maker).at(of("a"), Preparation()) for _ in range(2)]
    assert (maker.checked_out, maker.prepared) == (["a"], [])
    assert found[0] == found[1]
    assert found[0].files["app.py"] == File("x = 1\n")
    assert (found[0].environment, found[0].gold) == (None, maker.gold(of("a")))


def test_a_preparation_belongs_to_its_commit_and_command(tmp_path: Path) -> None:
    """What it leaves beside the files is in that commit's copy alone; another commit or command is prepared anew."""
    maker = Maker()
    grounds = folder(tmp_path, maker)
    one = grounds.at(of("a"), MAKE)
    assert (one.work / "built").exists()
    assert one.environment is not None
    assert (one.environment / "installed").read_text() == "make deps"
    assert "built" not in one.files
    grounds.at(of("a"), MAKE)
    grounds.at(of("b"), MAKE)
    grounds.at(of("a"), replace(MAKE, command="make other"))
    assert maker.prepared == ["true", "make deps", "make deps", "make other"]


def test_another_user_may_read_what_a_careful_one_made(tmp_path: Path) -> None:
    """Under a umask that keeps others out, runs under a uid of their own still reach every folder of a ground."""
    maker = Maker(files={"src/app.py": "x = 1\n"})
    before = os.umask(0o077)
    try:
        ground = folder(tmp_path, maker).at(of("a"), MAKE)
    finally:
        os.umask(before)
    assert ground.environment is not None
    roots = (ground.files.root, ground.work, ground.environment)  # type: ignore[attr-defined]
    places = [place for root in roots for place in (root, *root.rglob("*")) if place.is_dir()]
    assert len(places) == 5
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o755}


def test_equal_lock_files_share_an_environment(tmp_path: Path) -> None:
    """Commits with the same lock files are prepared once and keep their own files; other lock files are another."""
    maker, locked = Maker(), replace(MAKE, lock_files=("*.lock",))
    grounds = folder(tmp_path, maker)
    one = grounds.at(of("a"), locked)
    maker.files["app.py"] = "x = 5\n"
    two = grounds.at(of("b"), locked)
    assert one.environment == two.environment
    assert (two.work / "app.py").read_text() == "x = 5\n"
    assert not (two.work / "built").exists()
    maker.files["deps.lock"] = "two\n"
    assert grounds.at(of("c"), locked).environment != one.environment
    assert maker.prepared == ["true", "make deps", "make deps"]


def test_a_failed_preparation_leaves_nothing(tmp_path: Path) -> None:
    """A refusal or a kill half-way is no environment: the next try starts from the beginning."""
    maker = Maker()
    grounds = folder(tmp_path, maker)
    grounds.at(of("a"), MAKE)
    for failure in (NotAdmittedError("prepare_failed", "exit status 1"), KeyboardInterrupt()):
        maker.failure = failure
        with pytest.raises(type(failure)):
            grounds.at(of("b"), MAKE)
    maker.failure = None
    assert grounds.at(of("b"), MAKE).environment is not None
    assert list((tmp_path / "grounds" / "making").iterdir()) == []


def age(grounds: GroundFolder, commit: str) -> None:
    """Let a tree be unused for longer than a day."""
    note = next((grounds.folder / "trees").glob(f"*-{commit * 40}.json"))
    before = time.time() - KEPT_SECONDS - 60
    os.utime(note, (before, before))


def test_what_was_unused_for_longest_makes_room(tmp_path: Path) -> None:
    """An old tree goes for a new one; one that tonight uses stays, and what does not fit then is refused."""
    maker = Maker(size=60)
    grounds = folder(tmp_path, maker, limit=150)
    for commit in "ab":
        grounds.at(of(commit), Preparation())
        age(grounds, commit)
    grounds.keep(of("a"), Preparation())
    grounds.at(of("c"), Preparation())
    assert {path.name[-1] for path in (grounds.folder / "trees").iterdir() if path.is_dir()} == {"a", "c"}
    with pytest.raises(NotAdmittedError) as caught:
        grounds.at(of("d"), Preparation())
    assert caught.value.code == "no_room"


def test_links_are_told_and_never_followed(tmp_path: Path) -> None:
    """A link is a file whose text is its target, whether it leads to a file, a folder or nowhere."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.sh").write_text("exit 0\n")
    (tmp_path / "sub" / "run.sh").chmod(0o755)
    links = {"file": "sub/run.sh", "folder": "sub", "nowhere": "/etc/shadow.not"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    files = FolderFiles(tmp_path)
    assert set(files) == {"sub/run.sh", *links}
    assert {name: files[name] for name in links} == {name: File(target, LINK) for name, target in links.items()}
    assert files["sub/run.sh"] == File("exit 0\n", EXECUTABLE)
