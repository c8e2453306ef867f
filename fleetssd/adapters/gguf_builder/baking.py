"""Bakes a temperature into a base: its final norm times 1 / τ."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fleetssd.adapters.gguf_builder.patches import Change
from fleetssd.adapters.gguf_builder.quants import Type
from fleetssd.adapters.gguf_builder.source import ARCHITECTURES, Base
from fleetssd.errors import Misconfigured
from fleetssd.gguf_header import Tensor

_NORM = "output_norm.weight"


def bake(base: Base, tau: float) -> dict[str, Change]:
    """Return the final norm's weight times 1 / τ, which divides the logits by τ.

    Exact only where nothing stands between the norm and the logits but one matrix. Raises Misconfigured elsewhere.
    """
    if not (math.isfinite(tau) and tau > 0):
        raise Misconfigured(f"temperature {tau} cannot be baked", hint="Use a finite τ above 0.")
    norm = _bakeable(base)
    weights = np.frombuffer(base.read(norm.offset, norm.shape[0] * 4), "<f4").astype(np.float64)
    return {_NORM: Change(norm.type, (partial(bytes, (weights / tau).astype("<f4").tobytes()),))}


def _bakeable(base: Base) -> Tensor:
    keys, tensors = base.header.keys, base.header.tensors
    architecture = base.header.architecture
    between = [key for key in keys if key.endswith((".final_logit_softcapping", ".logit_scale")) and keys[key]]
    if architecture not in ARCHITECTURES or architecture == "gemma2" or between or "output.bias" in tensors:
        raise Misconfigured(
            f"a temperature cannot be baked into {architecture}: {', '.join(between) or 'its head is not one matrix'}",
            hint='Set decode.manage = "none" or "gateway".',
        )
    if _NORM not in tensors or tensors[_NORM].type != Type.F32:
        raise Misconfigured(f"{_NORM} is missing or not F32", hint="Convert the base with llama.cpp's converter.")
    return tensors[_NORM]
