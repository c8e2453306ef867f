"""Training samples from llama.cpp's server, which applies its samplers in the order that it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from fleetssd.adapters.samplers.drawing import Wire, draw_all
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.ports import Completion, Progress, Prompt
from fleetssd.recipe import Sampling


class LlamaServerSampler:
    """Draws completions through /apply-template and /completion; a context manager.

    Over a GGUF it runs a server of its own in a child process, over a URL it uses the one that is there. `name`
    records the engine, its version and, after the first draw, the decode in its order.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        context: int,
        slots: int = 16,
        threads: int = 1,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = "llama.cpp"
        self.url = ""
        self._model = model
        self._slots = slots
        self._command = ["--context", str(context), "--slots", str(slots), "--threads", str(threads)]
        self._transport = transport
        self._child: subprocess.Popen[str] | None = None
        self._wire = Wire("")

    def __enter__(self) -> LlamaServerSampler:
        """Start the child, or find out what the given URL is. Raises Misconfigured where neither works."""
        self.url = self._start(self._model) if isinstance(self._model, Path) else self._model
        self._wire = Wire(self.url, self._transport)
        build = self._wire.json("GET", "/props").get("build_info", "unknown build")
        self._engine = self.name = f"{self.name} {build}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self._wire.close()
        if self._child is None:
            return
        assert self._child.stdin is not None  # noqa: S101  it was opened as a pipe
        self._child.stdin.close()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    @property
    def pid(self) -> int:
        """The child's process id; 0 where there is no child."""
        return self._child.pid if self._child else 0

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order; one that failed after its retries is `finish="error"`.

        Raises Transient where the server is gone, Corrupt where it sampled in another order than it was told.
        """
        self.name = f"{self._engine}; {sampling.described}"
        return draw_all(prompts, lambda prompt: self._draw(prompt, sampling), self._slots, progress)

    def _draw(self, prompt: Prompt, sampling: Sampling) -> Completion:
        messages = [{"role": "user", "content": prompt.text}]
        try:
            rendered = self._wire.json("POST", "/apply-template", {"messages": messages})["prompt"]
            body = {"prompt": rendered, **parameters(sampling, prompt.seed)}
            reply = self._wire.json("POST", "/completion", body)
        except Rejected:
            return Completion("", "error", 0)  # this prompt is too long, or otherwise not for this model
        used = reply.get("generation_settings", {}).get("samplers")
        if used is not None and list(used) != list(sampling.order):
            raise Corrupt(
                f"the sampler used {used}, not {list(sampling.order)}", hint="This llama.cpp ignores `samplers`."
            )
        finish = "length" if reply.get("stop_type") == "limit" else "stop"
        return Completion(str(reply["content"]), finish, int(reply.get("tokens_predicted", 0)))

    def _start(self, model: Path) -> str:
        child = "fleetssd.adapters.samplers.llamacpp_child"
        command = [sys.executable, "-P", "-m", child, "--model", str(model), *self._command]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._child.stdout is not None  # noqa: S101  it was opened as a pipe
        line = self._child.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise Misconfigured(f"llama.cpp does not load {model}", hint=_NOT_LOADED)
        told = json.loads(line)
        self.name = str(told["engine"])
        return str(told["url"])


def parameters(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Return llama-server's parameters for a decode: all of them stated, and only the named samplers in this order."""
    return {
        "samplers": list(sampling.order), **sampling.llama_cpp(seed), "n_predict": sampling.max_tokens, "stream": False,
    }  # fmt: skip


_NOT_LOADED = "Is it a GGUF that this llama.cpp knows? `pip install 'fleetssd[demo]'` brings xllamacpp."
