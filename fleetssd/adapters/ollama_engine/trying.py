"""What a server can do, found by letting it: nothing that is tried stays behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fleetssd import trial_adapter
from fleetssd.adapters.ollama_engine.wire import Wire
from fleetssd.artefact import Blob, Manifest, Probe, manifest, own_size
from fleetssd.errors import Corrupt, Rejected
from fleetssd.shown import read_show

PROBE = "fleetssd-probe:x"
ZERO = "sha256:" + "0" * 64

Pull = Callable[[str, Manifest], None]


class Trial:
    """A LoRA of zeros on the base, brought in, loaded, asked for a token and taken away again.

    `size` is what the server says that the base takes (bytes). What the trial evicted is loaded again.
    """

    def __init__(self, wire: Wire, base_model: str, size: int, *, put: Callable[[bytes], str], pull: Pull) -> None:
        self._wire, self._base, self._size = wire, base_model, size
        self._put, self._pull = put, pull

    def run(self, version: str) -> Probe:
        """Try everything once. An engine that is away or busy raises Transient: that says nothing."""
        creates = self._misses_only_the_file({"from": self._base, "adapters": {"p.gguf": ZERO}})
        files = self._misses_only_the_file({"files": {"p.gguf": ZERO}})
        quantizes = self._misses_only_the_file({"files": {"p.gguf": ZERO}, "quantize": "q8_0"})
        shown = self._wire.json("POST", "/api/show", {"model": self._base})
        trial = trial_adapter.for_model(shown)
        before = self._wire.loaded()
        try:
            pulls = self._came(lambda: self._by_registry(shown, trial))
            came = pulls or (creates and trial is not None and self._came(lambda: self._by_create(trial)))
            answered = self._ask(PROBE) if came else {}
            said = answered or self._ask(self._base)  # what it tells of answers it tells of the base's too
        finally:
            remove(self._wire, PROBE)
            for name in before.keys() - self._wire.loaded().keys():
                self._wire.preload(name)
        loads = bool(answered) and trial is not None
        return Probe(
            version, pulls, creates, loads, files, quantizes, bool(said.get("logprobs")), "_debug_info" in said
        )

    def _misses_only_the_file(self, source: Mapping[str, Any]) -> bool:
        """Ask create for a file that nobody ever uploaded: a server that would take it misses the file."""
        try:
            self._wire.json("POST", "/api/create", {"model": PROBE, **source, "stream": False})
        except Rejected as refusal:
            return "no such file" in refusal.message
        remove(self._wire, PROBE)
        return False

    def _came(self, bring: Callable[[], None]) -> bool:
        try:
            bring()
        except (Rejected, Corrupt):
            return False
        return True

    def _by_registry(self, shown: Mapping[str, Any], trial: bytes | None) -> None:
        base = read_show(shown)
        adapter = Blob(self._put(trial), len(trial)) if trial else None
        self._pull(PROBE, manifest(base, Blob(base.blob, own_size(base, self._size)), adapter))

    def _by_create(self, trial: bytes) -> None:
        adapters = {"p.gguf": f"sha256:{self._put(trial)}"}
        self._wire.json(
            "POST",
            "/api/create",
            {"model": PROBE, "from": self._base, "adapters": adapters, "stream": False},
            slow=True,
        )

    def _ask(self, model: str) -> dict[str, Any]:
        """Ask for one token with everything that may come with it; nothing where it does not load."""
        greedy = {"num_predict": 1, "temperature": 0}
        asked = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": False}
        try:
            said = self._wire.json("POST", "/api/chat", {**asked, "options": greedy, "logprobs": True}, slow=True)
            drawn = self._wire.json("POST", "/api/chat", {**asked, "_debug_render_only": True}, slow=True)
        except (Rejected, Corrupt):
            return {}
        with self._wire.told():
            self._wire.patient.generate(model, "", keep_alive=0)
        return said | {key: drawn[key] for key in ("_debug_info",) if key in drawn}


def remove(wire: Wire, model: str) -> None:
    """Delete a name; a missing one is no error."""
    wire.send("DELETE", "/api/delete", json={"model": model}, missing_ok=True)
