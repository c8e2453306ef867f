"""The folder of adapters: a blob store by digest, immutable names that link into it, and a table of aliases.

    .blobs/<sha256>/    adapter.gguf and, where the trainer's own files came with it, those; digests.json over all
    <model>/            hard links to the files of one blob; this is what an engine is shown
    007@<model>/        the same where engines number adapters by the order of these names: an entry keeps its place
    007@/               a place that is free: its last adapter stays until the next one takes it
    aliases.json        what each alias was pointed to last

Every change is made beside its place and renamed into it, so a crash leaves the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from fleetssd import files
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.shelf import ADAPTER, PEFT, entry, named_by

_BLOBS, _ALIASES, _DIGESTS = ".blobs", "aliases.json", "digests.json"


class Shelf:
    """Adapters in one folder, `numbered` where they must keep their order. Raises Misconfigured where it cannot be."""

    def __init__(self, folder: Path, *, numbered: bool = False) -> None:
        self.folder, self._numbered = folder, numbered
        self._seen: dict[tuple[int, ...], str] = {}
        try:
            (folder / _BLOBS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f"cannot write {folder}: {error.strerror}", hint="Set [engine] adapters_dir to a folder of ours."
            ) from None

    def put(self, path: Path) -> str:
        """Keep a GGUF LoRA, with the trainer's files from `peft` beside it where they are; return its sha256 (hex)."""
        digest = self.file_digest(path)
        kept = self.folder / _BLOBS / digest
        if kept.exists():
            return digest
        sources = {ADAPTER: path} | {name: path.with_name("peft") / name for name in PEFT}
        part = kept.with_suffix(".partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        found = {name: source for name, source in sources.items() if source.is_file()}
        for name, source in found.items():
            shutil.copyfile(source, part / name)
            _sync(part / name)
        digests = {name: self.file_digest(part / name) for name in found}
        (part / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        _sync(part / _DIGESTS)
        part.rename(kept)
        _sync(kept.parent)
        return digest

    def holds(self, digest: str) -> bool:
        """Say whether an adapter (sha256) is kept."""
        return (self.folder / _BLOBS / digest).is_dir()

    def link(self, model: str, digest: str) -> Path:
        """Give a kept adapter its immutable name and return the folder.

        Raises Rejected where it was never kept, Corrupt where the name is another adapter's already.
        """
        kept, named = self.folder / _BLOBS / digest, self.path(model)
        if not self.holds(digest):
            raise Rejected(f"the folder of adapters has no file {digest[:12]}", hint="It was never uploaded.")
        if named is not None:
            if self.digest(model) != digest:
                raise Corrupt(f"{model} is another adapter already", hint="Names never change what they mean.")
            return named
        named = self._place(entry(model))
        part = named.with_name(f".{named.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for file in kept.iterdir():
            os.link(file, part / file.name)
        part.rename(named)
        if self._numbered:
            shutil.rmtree(named.with_name(named.name.split("@")[0] + "@"), ignore_errors=True)
        _sync(self.folder)
        return named

    def path(self, model: str) -> Path | None:
        """Return the folder of a name, None where there is none."""
        wanted = entry(model)
        return next((path for path in self._entries() if named_by(path.name) == wanted), None)

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted(name for path in self._entries() if (name := named_by(path.name)))

    def digest(self, model: str) -> str | None:
        """Return the sha256 (hex) of a name's GGUF, None where there is none.

        Raises Corrupt where one of its files is not what was kept.
        """
        named = self.path(model)
        if named is None:
            return None
        noted = json.loads((named / _DIGESTS).read_text(encoding="utf-8"))
        if any(self.file_digest(named / name) != digest for name, digest in noted.items()):
            raise Corrupt(f"{named} changed since it was installed", hint="Remove that folder and install again.")
        return str(noted[ADAPTER])

    def has(self, model: str, *files: str) -> bool:
        """Say whether a name comes with these files."""
        named = self.path(model)
        return named is not None and all((named / file).is_file() for file in files)

    def unlink(self, model: str) -> None:
        """Take a name away; a missing one is no error."""
        named = self.path(model)
        if named is None:
            return
        gone = named.with_name(named.name.split("@")[0] + "@" if self._numbered else f".{named.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        named.rename(gone)
        if not self._numbered:
            shutil.rmtree(gone)

    def drop(self, digest: str) -> bool:
        """Delete a kept adapter that no name links to; False where there is none, or one does."""
        kept = self.folder / _BLOBS / digest
        if not kept.is_dir() or (kept / ADAPTER).stat().st_nlink > 1:
            return False
        shutil.rmtree(kept)
        return True

    def aliases(self) -> dict[str, str]:
        """Return what every alias was pointed to."""
        try:
            return dict(json.loads((self.folder / _ALIASES).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError:
            raise Corrupt(f"{self.folder / _ALIASES} is no table", hint="Remove it; the next swap writes it.") from None

    def point(self, alias: str, model: str) -> None:
        """Note what an alias is pointed to."""
        files.write(self.folder / _ALIASES, json.dumps(self.aliases() | {alias: model}, indent=1))
        _sync(self.folder)

    def room(self) -> int:
        """Return the free bytes of its disk."""
        return shutil.disk_usage(self.folder).free

    def _entries(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name[0] != "." and (path / ADAPTER).is_file())

    def _place(self, name: str) -> Path:
        """Return where a new name goes: a free place, else behind the last."""
        if not self._numbered:
            return self.folder / name
        taken = [path.name for path in self._entries()]
        free = [int(each[:-1]) for each in taken if each.endswith("@")]
        behind = max((int(each.split("@")[0]) for each in taken), default=-1) + 1
        return self.folder / f"{free[0] if free else behind:03d}@{name}"

    def file_digest(self, path: Path) -> str:
        """Return the sha256 (hex) of a file; one that has neither moved nor changed is read once."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if key not in self._seen:
                    self._seen[key] = hashlib.file_digest(file, "sha256").hexdigest()
                return self._seen[key]
        except OSError as error:
            raise Misconfigured(
                f"cannot read {path}: {error.strerror}",
                hint="The engine and fleetssd must see its files under the same paths.",
            ) from None


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, last beyond a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
