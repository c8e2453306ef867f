"""What draws training samples: llama.cpp's server, transformers or Unsloth in a child process, a vLLM server.

Each keeps the order of prompts, states every parameter, repeats by seed, and says in `name` what drew: engine, version
and the decode in the order in which it is applied.
"""

from __future__ import annotations

from fleetssd.adapters.samplers.llama_server import LlamaServerSampler
from fleetssd.adapters.samplers.transformers_generate import TransformersSampler
from fleetssd.adapters.samplers.vllm import VllmSampler

__all__ = ["LlamaServerSampler", "TransformersSampler", "VllmSampler"]
