"""What this Python could train with: asked in a child process, because the answer costs an import of torch."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from fleetssd.placement import NEEDS

_PACKAGES = sorted({name for names in NEEDS.values() for name in names} | {"bitsandbytes"})


def probe() -> dict[str, Any]:
    """Return the fields of `placement.Found`."""
    packages = {name: version for name in _PACKAGES if (version := _version(name))}
    accelerator, name, bf16 = _accelerator("torch" in packages)
    return {"accelerator": accelerator, "name": name, "bf16": bf16, "packages": packages}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _accelerator(has_torch: bool) -> tuple[str, str, bool]:
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return "metal", "Apple Silicon", True  # M1 and M2 emulate it: slower, but its range needs no loss scaling
    if not has_torch:
        return "", "", False
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return "cuda", str(torch.cuda.get_device_name(0)), bool(torch.cuda.is_bf16_supported())
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu", str(torch.xpu.get_device_name(0)), True
    return "", "", False
