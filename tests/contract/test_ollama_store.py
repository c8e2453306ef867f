"""The embedded Ollama's store on a real disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetssd.embedded.ollama.metadata import copy_rewritten, parse_header
from fleetssd.embedded.ollama.names import parse_name
from fleetssd.embedded.ollama.replies import ApiError, go_dumps
from fleetssd.embedded.ollama.store import BadManifest, Store

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path)


def named(store: Store, name: str, *texts: bytes) -> None:
    """Store a model whose layers are these texts."""
    layers = [{"mediaType": "x", "digest": store.put(text)[0], "size": len(text)} for text in texts]
    store.write_manifest(parse_name(name), go_dumps({"config": layers[0], "layers": layers[1:]}))


def blobs(store: Store) -> set[str]:
    """Return the texts that are stored."""
    return {path.read_text() for path in store.blobs.iterdir()}


def test_deleting_a_model_keeps_what_others_use(store: Store) -> None:
    """Only the layers that nobody else names go, and so do empty folders."""
    named(store, "a:1", b"config a", b"shared", b"only a")
    named(store, "b:1", b"config b", b"shared")
    store.delete(parse_name("a:1"))
    assert blobs(store) == {"config b", "shared"}
    assert [name.short for name in store.names()] == ["b:1"]
    assert not (store.manifests / "registry.ollama.ai" / "library" / "a").exists()


def test_orphans_go_at_start_when_they_are_an_hour_old(store: Store) -> None:
    """A fresh upload waits for the manifest that will name it."""
    named(store, "a:1", b"config", b"layer")
    for text, age in ((b"old orphan", 4000), (b"fresh orphan", 10)):
        path = store.blob(store.put(text)[0])
        os.utime(path, (time.time() - age,) * 2)
    store.prune()
    assert blobs(store) == {"config", "layer", "fresh orphan"}


def test_a_corrupt_manifest_stops_the_pruning(store: Store) -> None:
    """Which blobs a cut manifest needs cannot be known, so none is deleted."""
    path = store.blob(store.put(b"perhaps needed")[0])
    os.utime(path, (0, 0))
    store.write_manifest(parse_name("a:1"), b"")
    assert store.prune() == []
    assert path.exists()


@pytest.mark.parametrize(("raw", "words"), [(b"", "EOF"), (b'{"layers":[', "unexpected EOF")])
def test_a_cut_manifest_is_told_in_gos_words(store: Store, raw: bytes, words: str) -> None:
    """A reader in the window of a copy that is not atomic sees these texts."""
    store.write_manifest(parse_name("a:1"), raw)
    with pytest.raises(BadManifest, match=f"^{words}$"):
        store.manifest(parse_name("a:1"))


def test_an_upload_is_stored_under_its_true_digest(store: Store) -> None:
    """What the client claims does not matter, and no half of a file is ever visible."""

    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"he", b"", b"llo"):
            assert not [path for path in store.blobs.iterdir() if path.name.startswith("sha256-")]
            yield part

    digest = asyncio.run(store.receive(chunks()))
    assert digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert [path.name for path in store.blobs.iterdir()] == [digest.replace(":", "-")]


@pytest.mark.parametrize("digest", ["sha256:abc", "../../etc/passwd", "md5:" + "0" * 64, ""])
def test_what_is_no_digest_has_no_path(store: Store, digest: str) -> None:
    """A path is only ever made of a well-formed digest."""
    with pytest.raises(ApiError, match="invalid digest format"):
        store.blob(digest)


def test_rewriting_a_model_twice_changes_nothing_more() -> None:
    """The rewrite keeps every tensor and key, and is its own fixed point."""
    data = (FILES / "base.gguf").read_bytes()
    once = copy_rewritten(data)
    before, after = parse_header(data), parse_header(once)
    assert copy_rewritten(once) == once
    assert {t.name: t.shape for t in after.tensors} == {t.name: t.shape for t in before.tensors}
    assert after.values == before.values | {"general.quantization_version": 2}
