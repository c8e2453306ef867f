"""The trainer's process on a machine that says it is a Mac while Unsloth is imported, and no moment longer.

Unsloth takes its MLX side on Apple Silicon alone, and MLX itself runs on a Linux CPU too. That proves calls and data,
not Metal.
"""

from __future__ import annotations

import platform
import sys

import torch  # noqa: F401  these look at the machine themselves, and must see the real one
from transformers import AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback  # noqa: F401

real = platform.system, platform.machine
platform.system, platform.machine = (lambda: "Darwin"), (lambda: "arm64")
import unsloth  # noqa: E402, F401

platform.system, platform.machine = real

if __name__ == "__main__":
    from services.trainer import main

    sys.exit(main(sys.argv[1:]))
