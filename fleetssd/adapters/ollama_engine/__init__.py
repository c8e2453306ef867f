"""An Ollama server as an engine: the official client where it has the route, httpx where it lacks it."""

from fleetssd.adapters.ollama_engine.engine import OllamaEngine

__all__ = ["OllamaEngine"]
