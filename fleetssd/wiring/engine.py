"""The engine that serves the fleet."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from fleetssd.config import Settings

if TYPE_CHECKING:
    from fleetssd.adapters.ollama_engine import OllamaEngine
    from fleetssd.adapters.shelf_engines import LlamaServerEngine, VllmEngine

    ServingEngine: TypeAlias = OllamaEngine | LlamaServerEngine | VllmEngine


def open_engine(settings: Settings) -> ServingEngine:
    """Return the engine that serves the fleet."""
    kind = settings.engine.kind
    return _open_ollama(settings) if kind == "ollama" else open_shelf_engine(settings)


def _open_ollama(settings: Settings) -> OllamaEngine:
    from fleetssd.adapters.loopback_registry import serve_manifest  # noqa: PLC0415
    from fleetssd.adapters.ollama_engine import OllamaEngine  # noqa: PLC0415

    engine = settings.engine

    def serve(path: str, body: bytes, media_type: str) -> AbstractContextManager[str]:
        return serve_manifest(engine.registry_host, path, body, media_type)

    return OllamaEngine(
        engine.url,
        engine.base_model,
        serve,
        timeout=engine.timeout_seconds,
        concurrency=engine.concurrency,
        num_ctx=engine.num_ctx,
        folder=engine.models_dir,
    )


def open_shelf_engine(settings: Settings) -> LlamaServerEngine | VllmEngine:
    """Open an engine that takes adapters from a folder."""
    from fleetssd.adapters.shelf_engines import LlamaServerEngine, Shelf, VllmEngine  # noqa: PLC0415
    from fleetssd.operations.learn import Base  # noqa: PLC0415

    engine, base = settings.engine, Base.named(settings)
    assert engine.adapters_dir is not None  # noqa: S101  the settings ask for it
    shelf = Shelf(engine.adapters_dir, numbered=engine.kind == "llama-server")
    names = (engine.url, engine.base_model, engine.alias, shelf)
    timeout, concurrency = engine.timeout_seconds, engine.concurrency
    if engine.kind == "vllm":
        return VllmEngine(*names, weights=base.weights, gguf=base.gguf, timeout=timeout, concurrency=concurrency)
    return LlamaServerEngine(*names, reload=engine.reload_command, timeout=timeout, concurrency=concurrency)
