"""Engines that hold one base and take adapters from a folder on this machine: llama.cpp's server, and vLLM."""

from fleetssd.adapters.shelf_engines.llama_server import LlamaServerEngine
from fleetssd.adapters.shelf_engines.shelf import Shelf
from fleetssd.adapters.shelf_engines.vllm import VllmEngine

__all__ = ["LlamaServerEngine", "Shelf", "VllmEngine"]
