"""The child process of the sampler: llama.cpp's own server over one GGUF, on a loopback port of its choosing.

It prints one JSON line with its address when the model is loaded, and ends with its parent: the end of its standard
input is the signal, however the parent went.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.metadata import version
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Load the model, say where it listens, and wait for the end of standard input."""
    options = _parser().parse_args(arguments)
    server = _serve(options)
    if server is None:
        return 1
    told = {"url": server.listening_address, "engine": f"llama.cpp (xllamacpp {version('xllamacpp')})"}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # llama.cpp's own way out waits for open streams


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp_child", description=__doc__)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--context", type=int, required=True, help="tokens of context of one slot")
    parser.add_argument("--slots", type=int, required=True, help="completions drawn at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of llama.cpp")
    return parser


def _serve(options: argparse.Namespace) -> Any:
    import xllamacpp  # noqa: PLC0415  only this process may load llama.cpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_ctx = options.context * options.slots
    params.n_parallel = options.slots
    params.n_threads_http = options.slots + 2
    params.cache_ram_mib = 0
    params.warmup = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = options.threads
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        sys.stderr.write(f"llamacpp_child: {error}\n")
        return None


if __name__ == "__main__":
    sys.exit(main())
