"""A PEFT adapter as values: which pairs it holds, at which strength, and what has no GGUF form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.safetensors import Span

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_NO_FORM = {
    "use_dora": "DoRA scales the base's columns",
    "modules_to_save": "whole modules were trained",
    "trainable_token_indices": "token embeddings were trained",
    "layer_replication": "layers were replicated",
    "lora_bias": "biases were trained",
    "target_parameters": "bare parameters were adapted",
    "fan_in_fan_out": "weights are stored transposed",
    "alora_invocation_tokens": "the adapter works from some tokens on only",
    "use_qalora": "A reads groups of inputs",
    "use_bdlora": "matrices are block-diagonal",
    "arrow_config": "adapters are chosen token by token",
    "kasa_config": "the base's singular values were changed",
    "monteclora_config": "matrices are distributions",
}
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of init_lora_weights that change the base: what is learnt does not fit the base on disk."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One adapted module: A has shape (r, in), B (out, r), and W becomes W + scale · B @ A."""

    module: str
    a: Span
    b: Span
    scale: float

    @property
    def rank(self) -> int:
        """The inner dimension r."""
        return self.b.shape[1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A plain LoRA. `alpha` is what a GGUF reader divides by each pair's rank; a pair that wants more says so."""

    alpha: float
    pairs: tuple[Pair, ...]

    def fold(self, pair: Pair) -> float:
        """Return the factor on B that makes alpha / rank equal this pair's own scale (1 for a plain adapter)."""
        return pair.scale / (self.alpha / pair.rank)


def parse(config: Mapping[str, Any], tensors: Mapping[str, Span]) -> Adapter:
    """Read adapter_config.json and the tensor table, pairs sorted by module.

    rsLoRA scales by alpha / sqrt(r) (arXiv 2312.03732). Raises Misconfigured for what no GGUF can say, Corrupt for
    halves without their other half.
    """
    _refuse(config)
    sides: dict[str, dict[str, Span]] = {}
    for key, span in tensors.items():
        match = _KEY.fullmatch(key)
        if not match:
            raise Misconfigured(f"the adapter holds {key}, which is no LoRA matrix", hint=_RETRAIN)
        sides.setdefault(match["module"].replace("language_model.", ""), {})[match["side"]] = span
    if not sides:
        raise Corrupt("the adapter holds no LoRA pair")
    pairs = tuple(_pair(config, module, sides[module]) for module in sorted(sides))
    rank = int(config["r"])
    return Adapter(alpha=_scale(config, float(config["lora_alpha"]), rank) * rank, pairs=pairs)


_RETRAIN = "Train a plain LoRA (no DoRA, no bias, no saved modules) on linear layers."


def _refuse(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise Misconfigured("not a plain LoRA adapter", hint=_RETRAIN)
    for key, why in _NO_FORM.items():
        if config.get(key):
            raise Misconfigured(f"{key}: {why}, which a GGUF LoRA cannot say", hint=_RETRAIN)
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_OTHER_BASE):
        raise Misconfigured(
            f"init_lora_weights = {start}: training began from another base than the one that is served",
            hint=f"{_RETRAIN} Or save it converted (PEFT: path_initial_model_for_weight_conversion).",
        )


def _pair(config: Mapping[str, Any], module: str, sides: Mapping[str, Span]) -> Pair:
    if set(sides) != {"A", "B"}:
        raise Corrupt(f"{module} has only lora_{'/'.join(sides)}")
    a, b = sides["A"], sides["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not b.shape[1]:
        raise Corrupt(f"{module}: lora_A {a.shape} and lora_B {b.shape} do not chain")
    alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return Pair(module=module, a=a, b=b, scale=_scale(config, float(alpha), b.shape[1]))


def _scale(config: Mapping[str, Any], alpha: float, rank: int) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the first match by PEFT's rule: the pattern ends the module's path, at a dot."""
    found = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, default)
