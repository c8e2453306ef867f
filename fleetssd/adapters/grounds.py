"""Commits on disk for held-out problems: checked out once, prepared once, the ones unused for longest make room.

    trees/<repository id>-<commit>/      the files of a base commit, without git
    gold/<record id>.json                what the merged change made of them
    environments/<key>/env, work         what `prepare` made: a virtual environment, and the tree where it is its own

A folder is made under another name and renamed when it is whole; its `.json` beside it holds its size, and that
file's time is the memory of its use. All of it is a cache: take it away, and it is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fleetssd.admission import NotAdmittedError
from fleetssd.changes import LINK
from fleetssd.checks import Preparation
from fleetssd.diffs import matches
from fleetssd.ports import Ground, Preparer
from fleetssd.records import Record
from fleetssd.solutions import EXECUTABLE, PLAIN, File, Whole

KEPT_SECONDS = 24 * 3600.0
"""What was used in the last day is in use: a night and the watch after it never lose their grounds to each other."""


class GroundFolder:
    """The port `Grounds` in a folder; `check_out` and `gold` are the git mirror's, `limit` is in bytes (0: none)."""

    def __init__(
        self,
        folder: Path,
        limit: int,
        check_out: Callable[[Record, Path], int],
        gold: Callable[[Record], Sequence[Whole]],
        preparer: Preparer,
    ) -> None:
        self.folder, self.limit = folder, limit
        self.check_out, self.read_gold, self.preparer = check_out, gold, preparer

    def at(self, record: Record, preparation: Preparation) -> Ground:
        """Return a record's ground, made where it is missing; NotAdmittedError where it cannot be had or prepared."""
        for name in ("trees", "gold", "environments", "making"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        tree = self._made(self._tree(record), lambda folder: self.check_out(record, folder))
        files = FolderFiles(tree)
        gold = self._gold(record)
        if not preparation.command:
            return Ground(files, tree, None, gold)
        place, shared = self._environment(record, preparation, files)
        made = self._made(place, lambda folder: self._prepare(folder, tree, preparation, shared=shared))
        return Ground(files, tree if shared else made / "work", made / "env", gold)

    def keep(self, record: Record, preparation: Preparation) -> None:
        """Note that a ground is used tonight; one that is not there is no error."""
        tree = self._tree(record)
        _touch(tree)
        if preparation.command and tree.exists():
            _touch(self._environment(record, preparation, FolderFiles(tree))[0])

    def _tree(self, record: Record) -> Path:
        return self.folder / "trees" / f"{record.repository_id}-{record.base_commit}"

    def _gold(self, record: Record) -> tuple[Whole, ...]:
        kept = self.folder / "gold" / f"{record.id}.json"
        if not kept.exists():
            told = [[whole.path, whole.file and asdict(whole.file)] for whole in self.read_gold(record)]
            making = self.folder / "making" / f"{record.id}-{os.getpid()}.json"
            making.write_text(json.dumps(told), encoding="ascii")
            making.rename(kept)
        return tuple(
            Whole(path, File(**file) if file else None) for path, file in json.loads(kept.read_text(encoding="ascii"))
        )

    def _environment(self, record: Record, preparation: Preparation, files: FolderFiles) -> tuple[Path, bool]:
        """Return the folder of an environment, and whether commits with equal lock files share it."""
        locks = sorted(path for path in files if matches(path, preparation.lock_files))
        what = [[path, files[path].text] for path in locks] if locks else [record.repository_id, record.base_commit]
        told = [asdict(preparation), platform.python_version(), what]
        text = json.dumps(told, default=str)
        return self.folder / "environments" / hashlib.sha256(text.encode()).hexdigest()[:32], bool(locks)

    def _prepare(self, folder: Path, tree: Path, preparation: Preparation, *, shared: bool) -> int:
        work, environment = folder / "work", folder / "env"
        shutil.copytree(tree, work, symlinks=True)
        shutil.copytree(self._blank() / "env", environment, symlinks=True)
        self.preparer.prepare(preparation, work, environment)
        if shared:  # what the command left beside one commit's files is of no use to another's
            shutil.rmtree(work)
        return _size(folder)

    def _blank(self) -> Path:
        """Return a virtual environment with nothing in it but pip: a copy of it is there sooner than a new one."""

        def make(folder: Path) -> int:
            (folder / "work").mkdir()
            (folder / "env").mkdir()
            self.preparer.prepare(Preparation("true", network=False), folder / "work", folder / "env")
            return _size(folder)

        return self._made(self.folder / "environments" / f"blank-{platform.python_version()}", make)

    def _made(self, place: Path, make: Callable[[Path], int]) -> Path:
        """Return a folder, made whole or not at all, and note its use."""
        if not _note(place).exists() or not place.exists():
            with tempfile.TemporaryDirectory(dir=self.folder / "making", ignore_cleanup_errors=True) as making:
                folder = Path(making, "made")
                folder.mkdir(mode=0o755)
                started = time.monotonic()
                size = make(folder)
                _open_up(folder)
                self._make_room(size)
                if _note(place).exists() and place.exists():  # another process was faster
                    return place
                shutil.rmtree(place, ignore_errors=True)
                folder.rename(place)
            note = {"bytes": size, "seconds": round(time.monotonic() - started, 3)}
            _note(place).write_text(json.dumps(note), encoding="ascii")
        _touch(place)
        return place

    def _make_room(self, size: int) -> None:
        """Remove what was unused for longest until `size` more bytes fit."""
        if not self.limit:
            return
        kept = sorted(_kept(self.folder), key=lambda one: one.used)
        total = size + sum(one.size for one in kept)
        before = time.time() - KEPT_SECONDS
        for one in kept:
            if total <= self.limit:
                return
            if one.used < before:
                _note(one.path).unlink(missing_ok=True)  # first its note: half a folder is never taken for a whole one
                shutil.rmtree(one.path, ignore_errors=True)
                total -= one.size
        if total > self.limit:
            raise NotAdmittedError("no_room", f"{total >> 20} MiB are needed, {self.limit >> 20} MiB allowed")


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    size: int
    used: float


def _kept(folder: Path) -> Iterator[_Kept]:
    for name in ("trees", "environments"):
        for note in (folder / name).glob("*.json"):
            size = json.loads(note.read_text(encoding="ascii"))["bytes"]
            yield _Kept(note.with_suffix(""), size, note.stat().st_mtime)


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _touch(place: Path) -> None:
    if _note(place).exists():
        os.utime(_note(place))


def _open_up(folder: Path) -> None:
    """Let every user into a folder and those in it, whatever the umask is: a run under another uid has to read them."""
    for root, _, _ in os.walk(folder):
        Path(root).chmod(0o755)


def _size(folder: Path) -> int:
    return sum(Path(root, name).lstat().st_size for root, _, names in os.walk(folder) for name in names)


@dataclass(frozen=True)
class FolderFiles(Mapping[str, File]):
    """The files of a folder by their paths in it, read when asked for; links are told, never followed."""

    root: Path
    modes: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", dict(_modes(self.root)))

    def __getitem__(self, path: str) -> File:
        """Return a file; a link's text is its target."""
        mode, place = self.modes[path], self.root / path
        if mode == LINK:
            return File(str(place.readlink()), mode)
        return File(place.read_bytes().decode("utf-8", errors="surrogateescape"), mode)

    def __contains__(self, path: object) -> bool:
        """Tell whether there is such a file, without reading it."""
        return path in self.modes

    def __iter__(self) -> Iterator[str]:
        """Return the paths."""
        return iter(self.modes)

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.modes)


def _modes(root: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(root):
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for name in [*names, *linked]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            told = LINK if stat.S_ISLNK(mode) else EXECUTABLE if mode & stat.S_IXUSR else PLAIN
            yield path.relative_to(root).as_posix(), told
