"""The model store on disk: blobs by digest, manifests by name, and what is swept away when nothing names it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .names import Name, fold_to_existing
from .replies import ApiError

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}\Z")
ORPHAN_SECONDS = 3600.0  # an uploaded blob may wait this long for the manifest that names it


class BadManifest(ValueError):
    """A manifest that is cut short or is no manifest; the text is Go's."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's bytes as they lie on disk and what they say. `digest` is bare hex of sha256(raw)."""

    raw: bytes
    config: dict[str, Any]
    layers: tuple[dict[str, Any], ...]
    modified_ns: int = 0

    @property
    def digest(self) -> str:
        """The model's digest as tags and ps show it."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def size(self) -> int:
        """The bytes of all layers and the config."""
        return sum(int(entry.get("size", 0)) for entry in (*self.layers, self.config))

    @property
    def digests(self) -> set[str]:
        """Every blob that this manifest keeps alive."""
        return {str(entry.get("digest", "")) for entry in (*self.layers, self.config)}


def parse_manifest(raw: bytes, modified_ns: int = 0) -> Manifest:
    """Read manifest bytes. Raises BadManifest with the words of Go's decoder."""
    if not raw.strip():
        raise BadManifest("EOF")
    try:
        value = json.loads(raw)
        return Manifest(raw, dict(value.get("config") or {}), tuple(value.get("layers") or ()), modified_ns)
    except json.JSONDecodeError as error:
        raise BadManifest("unexpected EOF") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise BadManifest("json: cannot unmarshal into Go value of type manifest.Manifest") from error


class Store:
    """Blobs and manifests below one folder, laid out as Ollama lays them out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        for folder in (self.blobs, self.manifests):
            folder.mkdir(parents=True, exist_ok=True)

    # --- blobs -----------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """Say where the blob lies, or would lie. Raises ApiError 400 for what is no digest."""
        if not _DIGEST.match(digest):
            raise ApiError(400, "invalid digest format")
        return self.blobs / digest.replace(":", "-")

    def put(self, data: bytes) -> tuple[str, bool]:
        """Store `data`; return its digest and whether it was new."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        path = self.blob(digest)
        if path.exists():
            return digest, False
        write_atomically(path, data)
        return digest, True

    async def receive(self, chunks: AsyncIterable[bytes], room: int = 0) -> str:
        """Store an upload under its true digest and return that; it is never visible half written.

        Raises OSError where the disk is full, and where the upload is larger than `room` bytes, if that is not 0.
        """
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(prefix="upload-", dir=self.blobs)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                    if 0 < room < file.tell():
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
                file.flush()
                os.fsync(file.fileno())
            final = self.blobs / f"sha256-{digest.hexdigest()}"
            path.replace(final)
        finally:
            path.unlink(missing_ok=True)
        return "sha256:" + digest.hexdigest()

    # --- manifests -------------------------------------------------------------------------------------------

    def path(self, name: Name) -> Path:
        """Say where the manifest of `name` lies."""
        return self.manifests.joinpath(*name.parts)

    def names(self) -> Iterator[Name]:
        """Yield every name that has a manifest file, readable or not, in a stable order."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            if path.is_file() and not path.name.startswith("."):
                yield Name(*path.relative_to(self.manifests).parts)

    def existing(self, name: Name) -> Name:
        """Spell `name` as it is stored, where a stored one differs in case alone."""
        return name if self.path(name).is_file() else fold_to_existing(name, self.names())

    def manifest(self, name: Name) -> Manifest:
        """Read the manifest of `name` from disk, afresh. Raises FileNotFoundError, BadManifest."""
        path = self.path(name)
        try:
            return parse_manifest(path.read_bytes(), path.stat().st_mtime_ns)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(str(path)) from error

    def readable(self) -> Iterator[tuple[Name, Manifest]]:
        """Yield every model whose manifest can be read."""
        for name in self.names():
            try:
                yield name, self.manifest(name)
            except (BadManifest, FileNotFoundError):
                continue

    def write_manifest(self, name: Name, raw: bytes) -> None:
        """Make `name` mean these manifest bytes, at once and for every reader."""
        write_atomically(self.path(name), raw)

    def delete(self, name: Name) -> None:
        """Remove the name, then every blob that no other manifest uses. Raises FileNotFoundError."""
        path = self.path(name)
        try:
            doomed = parse_manifest(path.read_bytes()).digests
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(str(path)) from error
        except BadManifest:
            doomed = set()
        path.unlink()
        self._remove_empty_folders(path.parent)
        self.sweep(doomed)

    def sweep(self, digests: Iterable[str]) -> None:
        """Delete those of `digests` that no readable manifest uses."""
        used = self._used()
        for digest in set(digests) - used:
            if _DIGEST.match(digest):
                self.blob(digest).unlink(missing_ok=True)

    def prune(self, now: float | None = None) -> list[str]:
        """Delete blobs that nothing names and that are older than an hour, and leftovers of broken uploads.

        `now` is in seconds since 1970. Does nothing where a manifest is corrupt: its blobs cannot be told apart.
        """
        if any(self._is_corrupt(name) for name in self.names()):
            return []
        used = {digest.replace(":", "-") for digest in self._used()}
        limit = (time.time() if now is None else now) - ORPHAN_SECONDS
        gone = [path for path in self.blobs.iterdir() if path.name not in used and path.stat().st_mtime < limit]
        for path in gone:
            path.unlink(missing_ok=True)
        return [path.name for path in gone]

    def _is_corrupt(self, name: Name) -> bool:
        try:
            self.manifest(name)
        except BadManifest:
            return True
        return False

    def _used(self) -> set[str]:
        return {digest for _, manifest in self.readable() for digest in manifest.digests}

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.manifests and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file by temporary file, fsync and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
