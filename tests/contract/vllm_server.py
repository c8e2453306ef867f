"""As much of vLLM's server as an engine needs: its routes, words and codes for adapters, with invented answers.

What it says was read from vllm/entrypoints/openai/models/serving.py and docs/features/lora.md (vLLM 0.10 to 0.19): an
adapter is a folder of PEFT's files, loaded under a name; the prefix cache knows adapters by that name alone.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS = ("def", "return", "if", "x", "y", "(", ")", ":", "+", "0", "1", "for", "in", "list")
MAX_RANK = 16
MAX_CHARACTERS = 8000


class VllmServer(ThreadingHTTPServer):
    """One base and the adapters that were loaded; an answer is a function of weights, prompt, and seed if tempered."""

    daemon_threads = True

    def __init__(self, base: str, root: Path, *, runtime: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base, self.root, self.runtime = base, root, runtime
        self.loaded: dict[str, tuple[str, str]] = {}
        self.prefixes: dict[tuple[str, str], str] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and JSON, or a plain text."""
        routes = {
            "/version": self.version,
            "/v1/models": self.models,
            "/v1/chat/completions": self.chat,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
        }
        if self.runtime:
            routes |= {"/v1/load_lora_adapter": self.load, "/v1/unload_lora_adapter": self.unload}
        route = routes.get(path)
        return route(body) if route else (404, {"detail": "Not Found"})

    def version(self, _: dict[str, Any]) -> tuple[int, Any]:
        """Say which vLLM it is like."""
        return 200, {"version": "0.19.1"}

    def models(self, _: dict[str, Any]) -> tuple[int, Any]:
        """List the base and every adapter."""
        rows = [{"id": self.base, "object": "model", "root": str(self.root), "parent": None}]
        rows += [
            {"id": n, "object": "model", "root": path, "parent": self.base} for n, (path, _) in self.loaded.items()
        ]
        return 200, {"object": "list", "data": rows}

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Read PEFT's files from a folder; what is read counts, not what lies there later."""
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.loaded and not body.get("load_inplace"):
            said = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, ..."
            return _error(400, "InvalidUserInput", said)
        if not (path / "adapter_config.json").is_file() or not (path / "adapter_model.safetensors").is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > MAX_RANK:
            said = f"LoRA rank {rank} is greater than max_lora_rank {MAX_RANK}."
            return _error(500, "InternalServerError", said)
        weights = hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()
        self.loaded[name] = (str(path), weights)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Forget an adapter; its prefixes stay in the cache."""
        name = body["lora_name"]
        if self.loaded.pop(name, None) is None:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def chat(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Invent an answer from the weights that the prompt was first read under by that name."""
        name, text = body["model"], body["messages"][0]["content"]
        weights = self._weights(name)
        if weights is None:
            return _error(404, "NotFoundError", f"The model `{name}` does not exist.")
        if len(text) > MAX_CHARACTERS:
            return _error(400, "BadRequestError", "This model's maximum context length is 1024 tokens.")
        read = self.prefixes.setdefault((name, text), weights)
        seed = body["seed"] if body["temperature"] else 0
        noise = hashlib.sha256(f"{read}:{text}:{seed}".encode()).digest()
        words = [WORDS[byte % len(WORDS)] for byte in noise][: min(body["max_tokens"], 4 + noise[0] % 28)]
        finish = "length" if len(words) == body["max_tokens"] else "stop"
        choice: dict[str, Any] = {"message": {"content": " ".join(words)}, "finish_reason": finish}
        if body.get("logprobs"):
            tops = [{"token": word, "logprob": -0.5 * (rank + 1)} for rank, word in enumerate(WORDS[:5])]
            choice["logprobs"] = {"content": [{"token": w, "logprob": -0.5, "top_logprobs": tops} for w in words]}
        return 200, {"choices": [choice], "usage": {"completion_tokens": len(words)}}

    def tokenize(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Render the chat and return its bytes as tokens."""
        if self._weights(body["model"]) is None:
            return _error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        return 200, {"tokens": list(f"<user>{body['messages'][0]['content']}<assistant>".encode())}

    def detokenize(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Spell tokens."""
        return 200, {"prompt": bytes(body["tokens"]).decode()}

    def _weights(self, name: str) -> str | None:
        return "base" if name == self.base else self.loaded.get(name, ("", None))[1]


def _error(status: int, kind: str, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


class _Handler(BaseHTTPRequestHandler):
    server: VllmServer

    def do_GET(self) -> None:
        """Answer a question without a body."""
        self._send({})

    def do_POST(self) -> None:
        """Answer a request."""
        self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, body: dict[str, Any]) -> None:
        status, said = self.server.answer(self.path, body)
        data = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def vllm_server(base: str, root: Path, *, runtime: bool = True) -> Iterator[VllmServer]:
    """Run the stand-in until the block ends."""
    server = VllmServer(base, root, runtime=runtime)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
