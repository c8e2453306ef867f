"""A real llama.cpp server over a folder of adapters, as an operator's start script would run it; SIGHUP restarts it."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

SLOTS = 2


@dataclass(frozen=True)
class Running:
    """Where it listens, and what restarts it."""

    url: str
    reload: tuple[str, ...]

    def restart(self) -> None:
        """Restart it and wait for the new one, which marks media by another word."""
        before = self._mark()
        subprocess.run(self.reload, check=True)
        _wait(lambda: self._mark() not in ("", before))

    def _mark(self) -> str:
        try:
            return str(httpx.get(f"{self.url}/props", trust_env=False).json().get("media_marker", ""))
        except httpx.TransportError:
            return ""


@contextmanager
def llama_server(model: Path, adapters: Path, *more: str) -> Iterator[Running]:
    """Run the server in a process of its own until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.contract.llama_server", str(model), str(adapters), str(port), *more]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        running = Running(f"http://127.0.0.1:{port}", ("kill", "-HUP", str(process.pid)))
        try:
            _wait(lambda: bool(running._mark()))
            yield running
        finally:
            process.kill()


def _wait(ready: Callable[[], bool]) -> None:
    for _ in range(600):
        if ready():
            return
        time.sleep(0.05)
    raise TimeoutError


def main() -> None:
    """Serve; SIGHUP starts the program anew, with the adapters that are there then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("adapters", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--cache-ram", type=int, default=0)
    parser.add_argument("--cache-prompt", action="store_true", help="as without --no-cache-prompt")
    parser.add_argument("--apply", action="store_true", help="as without --lora-init-without-apply")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    import xllamacpp  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.port = options.port
    params.n_ctx, params.n_parallel, params.warmup = 1024 * SLOTS, SLOTS, False
    params.cache_ram_mib = options.cache_ram
    params.cache_prompt = options.cache_prompt
    scale = 1.0 if options.apply else 0.0
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(path), scale) for path in sorted(options.adapters.glob("*/adapter.gguf"))
    ]
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = 1
    _serving = xllamacpp.Server(params)
    signal.sigwait({signal.SIGHUP})
    again = [sys.executable, "-m", "tests.contract.llama_server", *sys.argv[1:]]
    os.execv(sys.executable, again)  # noqa: S606  not a shell's business


if __name__ == "__main__":
    main()
