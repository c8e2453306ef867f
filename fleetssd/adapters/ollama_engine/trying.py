"""Whether a server takes adapters, found by giving it one: nothing that is tried stays behind."""

from __future__ import annotations

from collections.abc import Callable

from fleetssd import trial_adapter
from fleetssd.adapters.ollama_engine.wire import Wire
from fleetssd.artefact import Blob, Manifest, manifest, own_size
from fleetssd.errors import Corrupt, Rejected
from fleetssd.shown import read_show

PROBE = "fleetssd-probe:x"
ZERO = "sha256:" + "0" * 64


def creates_adapters(wire: Wire, base_model: str) -> bool:
    """Ask create for an adapter that nobody ever uploaded: a server that takes adapters misses the file."""
    body = {"model": PROBE, "from": base_model, "adapters": {"p.gguf": ZERO}, "stream": False}
    try:
        wire.json("POST", "/api/create", body)
    except Rejected as refusal:
        return "no such file" in refusal.message
    remove(wire, PROBE)
    return False


def loads_pulled_adapter(
    wire: Wire, base_model: str, size: int, *, put: Callable[[bytes], str], pull: Callable[[str, Manifest], None]
) -> bool:
    """Pull the base with a LoRA of zeros under another name, load it, ask it for a token, and remove it again.

    `size` is what the server says the base takes (bytes). Where `show` lists no tensors only the pull is tried. What
    the trial evicted is loaded again. An engine that is away or busy raises Transient: that says nothing.
    """
    body = wire.json("POST", "/api/show", {"model": base_model})
    base, trial = read_show(body), trial_adapter.for_model(body)
    before = wire.loaded()
    try:
        adapter = Blob(put(trial), len(trial)) if trial else None
        pull(PROBE, manifest(base, Blob(base.blob, own_size(base, size)), adapter))
        if trial:
            _load(wire)
    except (Rejected, Corrupt):
        return False
    finally:
        remove(wire, PROBE)
        for name in before.keys() - wire.loaded().keys():
            wire.preload(name)
    return True


def remove(wire: Wire, model: str) -> None:
    """Delete a name; a missing one is no error."""
    wire.send("DELETE", "/api/delete", json={"model": model}, missing_ok=True)


def _load(wire: Wire) -> None:
    with wire.told():
        wire.patient.chat(PROBE, [{"role": "user", "content": "x"}], options={"num_predict": 1, "temperature": 0})
        wire.patient.generate(PROBE, "", keep_alive=0)
