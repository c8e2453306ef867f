"""Where a run trains and with what: backend, device, dtype; chosen from what a probe saw, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fleetssd.errors import Corrupt, Misconfigured

Backend: TypeAlias = Literal["trl", "unsloth", "unsloth-mlx"]
PLAIN = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
NEEDS: Mapping[Backend, tuple[str, ...]] = {
    "trl": PLAIN,
    "unsloth": (*PLAIN, "unsloth", "unsloth_zoo"),
    "unsloth-mlx": ("transformers", "datasets", "unsloth", "unsloth_zoo", "mlx", "mlx_lm", "mlx_vlm"),
}
EXTRAS: Mapping[Backend, str] = {"trl": "train", "unsloth": "unsloth", "unsloth-mlx": "mlx"}


@dataclass(frozen=True, slots=True)
class Placement:
    """The part of a plan that says what trains it. `dtype` is the frozen base's; an adapter's weights are float32."""

    backend: Backend = "trl"
    device: str = "cpu"
    dtype: str = "float32"
    qlora: bool = False

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe saw: versions by package, and the accelerator that PyTorch or MLX would use ("" is none)."""

    accelerator: str = ""
    name: str = ""
    bf16: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Found:
        """Rebuild it from JSON. Raises Corrupt."""
        try:
            return cls(**table)
        except TypeError as error:
            raise Corrupt(f"not a probe's answer: {error}") from None


@dataclass(frozen=True, slots=True)
class Choice:
    """A placement and why it was chosen, in a sentence."""

    placement: Placement
    because: str


def choose(backend: str, device: str, qlora: bool, found: Found) -> Choice:
    """Return what trains here. Raises Misconfigured where the settings ask for what the probe did not see."""
    kind = device.partition(":")[0]
    if device == "auto":
        device = kind = found.accelerator or "cpu"
    elif kind not in ("cpu", found.accelerator):
        raise Misconfigured(
            f'recipe.device is "{device}", and the trainer\'s Python sees {found.accelerator or "no accelerator"}',
            hint='Mend the driver or the torch build, or set recipe.device = "auto" and let it train where it can.',
        )
    chosen, because = _backend(backend, kind, found)
    missing = [name for name in NEEDS[chosen] if name not in found.packages]
    if missing:
        raise Misconfigured(
            f"backend {chosen} needs {', '.join(missing)}",
            hint=f"pip install 'fleetssd[{EXTRAS[chosen]}]' into the Python that recipe.python names.",
        )
    if qlora and (kind == "cpu" or (chosen != "unsloth-mlx" and "bitsandbytes" not in found.packages)):
        raise Misconfigured(
            "recipe.qlora needs an accelerator, and bitsandbytes beside torch",
            hint="Set recipe.qlora = false, or install bitsandbytes.",
        )
    where = f"on {found.name} ({device})" if kind != "cpu" and found.name else f"on {device}"
    return Choice(Placement(chosen, device, _dtype(kind, found), qlora), f"{chosen} {where}: {because}")


def _backend(wanted: str, kind: str, found: Found) -> tuple[Backend, str]:
    has_unsloth = "unsloth" in found.packages
    if wanted == "auto":
        if kind == "cpu":
            return "trl", "no accelerator is used, and there Unsloth is TRL"
        if kind == "metal":
            return ("unsloth-mlx", "Apple Silicon") if has_unsloth else ("trl", "Unsloth is not installed")
        return ("unsloth", "an accelerator and Unsloth") if has_unsloth else ("trl", "Unsloth is not installed")
    if (wanted == "unsloth-mlx") != (kind == "metal") and wanted != "trl":
        raise Misconfigured(
            f'recipe.backend is "{wanted}" and the device is {kind}',
            hint='Apple Silicon takes "unsloth-mlx", everything else "unsloth"; "auto" finds it.',
        )
    for known in NEEDS:
        if wanted == known:
            return known, "asked for by recipe.backend"
    raise Misconfigured(f'no backend "{wanted}"', hint=f"One of auto, {', '.join(NEEDS)}.")


def _dtype(kind: str, found: Found) -> str:
    if kind == "cpu":
        return "float32"
    return "bfloat16" if found.bf16 else "float16"
