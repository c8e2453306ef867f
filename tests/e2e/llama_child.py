"""Serves one GGUF with llama.cpp: requests on stdin; token ids, or log-probabilities where asked for, on stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import httpx
import xllamacpp


def serve(model: str, adapter: str | None) -> Any:
    """Serve a GGUF, with an adapter at strength 1 where one is given, on one thread and one slot."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity, parameters.port = 512, 1, 0, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # Exact attention: a float16 cache or flash attention moves logits by 0.002, enough to turn a near tie.
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.warmup = False
    if adapter:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = adapter, 1.0
        parameters.lora_adapters = [info]
    return xllamacpp.Server(parameters)


def main() -> None:
    """Read the job, answer every request in turn."""
    job = json.load(sys.stdin)
    server = serve(job["model"], job["adapter"])
    answers = []
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:
        for request in job["requests"]:
            plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "cache_prompt": False, "return_tokens": True}
            reply = client.post("/completion", json={**plain, **request}).raise_for_status().json()
            likely = reply.get("completion_probabilities")
            answers.append(
                [[row["id"], row["logprob"]] for row in likely[0]["top_logprobs"]] if likely else reply["tokens"]
            )
    sys.stdout.write(json.dumps(answers) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the engine's threads need no farewell


if __name__ == "__main__":
    main()
