"""What engines that take adapters from a folder have in common: the folder, and what may not be done to it."""

from __future__ import annotations

from pathlib import Path

from fleetssd.adapters.shelf_engines.shelf import Shelf
from fleetssd.artefact import same_name
from fleetssd.errors import Misconfigured, Rejected


class OnShelf:
    """The half of an engine that is its folder; `server` is what messages call it."""

    def __init__(self, server: str, base_model: str, alias: str, shelf: Shelf) -> None:
        self._server, self._base, self._alias, self._shelf = server, base_model, alias, shelf

    def holds(self, blob: str) -> bool:
        """Say whether the folder has an adapter (sha256) already."""
        return self._shelf.holds(blob)

    def upload(self, path: Path) -> str:
        """Put an adapter, with the trainer's own files beside it, into the folder; return the GGUF's sha256 (hex)."""
        return self._shelf.put(path)

    def pull(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Refuse: these servers take nothing from a registry. Raises Misconfigured."""
        raise Misconfigured(f"{self._server} takes nothing from a registry", hint='Set [engine] road = "auto".')

    def quiet(self, model: str) -> bool:
        """Say yes: neither a change of scales nor a new name reloads anything."""
        return True

    def drop(self, blob: str, base_model: str) -> bool:
        """Delete an adapter (sha256) that no name refers to; False where there is none, or one does."""
        return self._shelf.drop(blob)

    def room(self) -> int | None:
        """Return the bytes that are free where adapters are kept."""
        return self._shelf.room()

    def _on_base(self, base_model: str) -> None:
        if not same_name(base_model, self._base):
            raise Rejected(
                f"{base_model} is not the base", hint="Adapters go onto the pristine base alone.", status=404
            )

    def _removable(self, model: str) -> None:
        if same_name(model, self._base) or same_name(model, self._alias):
            raise Rejected(f"{model} is no adapter of ours", hint="Only adapters can be removed.")

    def _one_alias(self, alias: str, whose: str) -> None:
        if not same_name(alias, self._alias):
            raise Misconfigured(f"{whose} has one alias, {self._alias}", hint="Set [engine] alias to it.")
