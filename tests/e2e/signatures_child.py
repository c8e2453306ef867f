"""Print the parameters of the Unsloth calls that we make, as JSON; with UNSLOTH_ALLOW_CPU=1 the GPU's own classes."""

from __future__ import annotations

import inspect
import json

import unsloth
from trl import SFTConfig
from unsloth import FastLanguageModel

if __name__ == "__main__":
    # Each of these takes **kwargs too: a wrong name would be swallowed, so names are what is compared.
    calls = {
        "from_pretrained": FastLanguageModel.from_pretrained,
        "get_peft_model": FastLanguageModel.get_peft_model,
        "for_inference": FastLanguageModel.for_inference,
        "SFTConfig": SFTConfig.__init__,
    }
    names = {name: list(inspect.signature(call).parameters) for name, call in calls.items()}
    files = {name: inspect.unwrap(call).__code__.co_filename for name, call in calls.items()}
    print(json.dumps({"device": unsloth.DEVICE_TYPE, "parameters": names, "files": files}))  # noqa: T201
