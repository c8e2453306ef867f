"""What a person does about the engine, in the words of the kind that serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleetssd.config import EngineKind


@dataclass(frozen=True, slots=True)
class Advice:
    """Hints for one kind of engine. `model` and `alias` in braces stand for the names that the settings give."""

    no_base: str
    no_alias: str
    other_base: str
    compare: str
    away: str


ADVICE: Mapping[EngineKind, Advice] = {
    "ollama": Advice(
        no_base="Create it first (`ollama create {model} -f Modelfile`), or name another in [engine] base_model.",
        no_alias="Point it to the base once: ollama cp {model} {alias}",
        other_base="Point [base] gguf to the engine's own blob (`ollama show --modelfile` names it after FROM): "
        "some versions rewrite the file that a model is created from.",
        compare="Compare `ollama show` of both.",
        away="Is Ollama running? `ollama serve`",
    ),
    "llama-server": Advice(
        no_base="Start llama-server with the base's GGUF (-m) and name it in [engine] base_model.",
        no_alias="A llama-server's alias is what it applies: start it with the base, and name that in [engine] alias.",
        other_base="Point [base] gguf to the file that llama-server was started with (-m; `model_path` in GET /props).",
        compare="Compare GET /props and POST /apply-template; does something else restart the server?",
        away="Is llama-server running at [engine] url?",
    ),
    "vllm": Advice(
        no_base="Start vLLM with --served-model-name {model}, or name what it serves in [engine] base_model.",
        no_alias="vLLM's alias is kept by fleetssd: aliases.json in [engine] adapters_dir must be ours to write.",
        other_base="Point [base] gguf to the GGUF that was converted from the very weights that vLLM serves.",
        compare="Compare what POST /tokenize says of both; was vLLM started with another --chat-template?",
        away="Is vLLM running at [engine] url?",
    ),
}
