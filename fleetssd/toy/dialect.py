"""The house dialect: how this fleet's issues name things, in words that no pretraining issue contains.

No decoding setting of a model that never met these words can answer such an issue; merged work can teach them.
"""

from __future__ import annotations

from collections.abc import Mapping

HOUSE_PREDICATES: Mapping[str, str] = {
    "gt": "hot past {k}",
    "lt": "cold past {k}",
    "ge": "ripe at {k}",
    "le": "tame at {k}",
    "eq": "pinned to {k}",
    "ne": "loose from {k}",
    "div": "aligned to {k}",
    "ndiv": "astray of {k}",
    "even": "balanced",
    "odd": "crooked",
    "pos": "bright",
    "neg": "dark",
}

HOUSE_MAPPINGS: Mapping[str, str] = {
    "add": "lifted {k}",
    "sub": "sunk {k}",
    "mul": "stretched {k}",
    "fdiv": "folded {k}",
    "mod": "wrapped {k}",
    "sq": "crossed",
    "negate": "mirrored",
    "abs": "settled",
}
