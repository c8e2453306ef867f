"""The child process of one loaded model: llama.cpp's own server on a loopback port of its choosing.

Run as a module by the server. It prints one JSON line with its URL when the model is loaded, exits 1 when the file or
an adapter does not load, and dies with its parent: the kernel kills it, and so does the end of its standard input.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1
_POOLING_LAST = 3
_ERRORS = 1  # what llama.cpp says on stderr; one line a token would cost more than the token


def main(arguments: list[str] | None = None) -> int:
    """Load the model, say where it listens, and wait for the parent to go."""
    options = _parser().parse_args(arguments)
    _die_with(options.parent)
    server = _serve(options)
    if server is None:
        return 1
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    threading.Event().wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runner", description="Serve one GGUF model with llama.cpp on loopback.")
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--adapter", action="append", default=[], help="a LoRA GGUF file; may be repeated")
    parser.add_argument("--context", type=int, required=True, help="tokens of context of one slot")
    parser.add_argument("--parallel", type=int, required=True, help="slots")
    parser.add_argument("--batch", type=int, default=512, help="tokens in one batch")
    parser.add_argument("--shift", action="store_true", help="let a full context slide instead of ending the answer")
    parser.add_argument("--embedding", action="store_true", help="answer /embedding")
    parser.add_argument("--parent", type=int, required=True, help="the process to die with")
    return parser


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # llama.cpp would first wait for open streams


def _serve(options: argparse.Namespace) -> Any:
    import xllamacpp  # noqa: PLC0415 - the one process that loads llama.cpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_ctx = options.context * options.parallel
    params.n_parallel = options.parallel
    params.n_batch = max(options.batch, 1)
    params.n_ubatch = max(options.batch, 1)
    params.n_threads_http = 2 * options.parallel + 4  # a connection that is kept open keeps its thread
    params.ctx_shift = options.shift
    params.cache_ram_mib = 0  # that cache restores what was computed under another adapter
    params.warmup = False
    params.verbosity = _ERRORS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = 1  # more threads spin against each other on a shared machine
    if options.embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type(_POOLING_LAST)
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in options.adapter]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        sys.stderr.write(f"runner: {error}\n")
        return None


if __name__ == "__main__":
    sys.exit(main())
