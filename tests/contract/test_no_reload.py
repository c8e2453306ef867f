"""What an evaluation asks of a server that production is using: nothing that loads a model anew."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import httpx

from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling
from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
BASE, ALIAS = "base:q", "coder:latest"
PROMPTS = [Prompt(f"Write f{n}.", n) for n in range(4)]


def runners(data: Path) -> set[int]:
    """Return the processes that hold a model of this server: each load starts another."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
                continue
            if str(data / "blobs").encode() in command:
                found.add(int(entry.name))
    return found


def test_an_evaluation_loads_nothing_anew(tmp_path: Path) -> None:
    """Other temperatures, other names of the same file, previews, likelihoods and preloads share production's load."""
    serve = partial(serve_manifest, "127.0.0.1")
    with (
        embedded_ollama(tmp_path, "0.34.1") as url,
        httpx.Client(base_url=url, timeout=60) as fleet,
        closing(OllamaEngine(url, BASE, serve, concurrency=2)) as engine,
    ):
        digest = engine.upload(FILES / "base.gguf")
        body = {"model": BASE, "files": {"m.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 512}, "stream": False}
        fleet.post("/api/create", json=body).raise_for_status()
        engine.point(ALIAS, BASE)

        def production(**options: float) -> set[int]:
            messages = [{"role": "user", "content": "hi"}]
            turn = {"model": ALIAS, "messages": messages, "stream": False, "options": {"num_predict": 2, **options}}
            fleet.post("/api/chat", json=turn).raise_for_status()
            return runners(tmp_path)

        before = production()
        assert len(before) == 1
        for temperature in (0.2, 1.0):
            sampling = Sampling(temperature, 20, 0.9, 0.05, 4)
            for model in (ALIAS, BASE):
                assert all(answer.finish != "error" for answer in engine.complete(model, PROMPTS, sampling, _quiet))
            engine.likelihoods(ALIAS, PROMPTS[:1], sampling)
        engine.rendered(ALIAS, "x")
        engine.preload(ALIAS)
        assert production(temperature=0.5) == before
        assert production(num_ctx=256) != before  # what does load anew is seen


def _quiet(done: int, total: int, what: str) -> None:
    """Show nothing."""
