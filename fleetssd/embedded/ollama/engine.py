"""The parent's side of a runner: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .replies import ApiError, Json, dumps
from .wire import Wire, WireError

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check "
    "ollama server logs for details"
)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a runner is started with. `context` is tokens per slot."""

    model: Path
    adapters: tuple[Path, ...]
    context: int
    parallel: int
    batch: int = 512
    shift: bool = True
    embedding: bool = False


class Engine:
    """One running child and the requests that go to it."""

    def __init__(self, spec: Spec, process: asyncio.subprocess.Process, url: str) -> None:
        self.spec = spec
        self.process = process
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._wire = Wire(host, int(port), spare=spec.parallel)
        self._slots = asyncio.Semaphore(spec.parallel)

    @property
    def alive(self) -> bool:
        """Whether the child is still there."""
        return self.process.returncode is None

    async def stop(self) -> None:
        """Kill the child; nothing in it needs saving."""
        self._wire.close()
        if self.alive:
            self.process.kill()
        await self.process.wait()

    async def complete(self, request: Json) -> Json:
        """Ask for a completion in one piece."""
        asked = request | {"stream": False, "response_fields": ["content", "stop_type", "timings"]}
        async with self._slots:
            return await self._ask("/completion", asked)

    async def stream(self, request: Json) -> AsyncGenerator[Json]:
        """Ask for a completion token by token; the last event has `stop` true."""
        body = dumps(request | {"stream": True})
        async with self._slots:
            try:
                async with self._wire.exchange("/completion", body) as reply:
                    if reply.status != 200:
                        raise _refused(reply.status, await reply.read())
                    async for line in reply.lines():
                        if line.startswith(b"data: "):
                            yield json.loads(line[6:])
            except WireError as error:
                raise ApiError(500, f"an error was encountered while running the model: {error}") from error

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Split text into token ids; `special` adds what the model wants in front."""
        reply = await self._ask("/tokenize", {"content": text, "add_special": special})
        return [int(token) for token in reply["tokens"]]

    async def detokenize(self, tokens: list[int]) -> str:
        """Join token ids into text."""
        return str((await self._ask("/detokenize", {"tokens": tokens}))["content"])

    async def render(self, messages: list[Json]) -> str:
        """Render messages with the chat template in the model's file."""
        return str((await self._ask("/apply-template", {"messages": messages}))["prompt"])

    async def embed(self, text: str) -> tuple[list[float], int]:
        """Embed a text; return the vector and the number of its tokens."""
        reply: Any = await self._ask("/embedding", {"content": text})
        vector = reply[0]["embedding"]
        return (vector[-1] if vector and isinstance(vector[0], list) else vector), len(await self.tokenize(text))

    async def _ask(self, path: str, request: Json) -> Json:
        try:
            async with self._wire.exchange(path, dumps(request)) as reply:
                body = await reply.read()
        except WireError as error:
            raise ApiError(500, _DIED) from error
        if reply.status != 200:
            raise _refused(reply.status, body)
        value: Json = json.loads(body)
        return value


def _refused(status: int, body: bytes) -> ApiError:
    return ApiError(status, body.decode("utf-8", "replace").strip())


async def start(spec: Spec) -> Engine:
    """Start a runner and wait until its model is loaded.

    Raises ApiError 500 where the file or an adapter does not load; kills the child when it is cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(spec),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = await process.stdout.readline()
    except BaseException:
        if process.returncode is None:
            process.kill()
        raise
    if line:
        return Engine(spec, process, json.loads(line)["url"])
    code = await process.wait()
    how = f"exit status {code}" if code >= 0 else f"signal: {-code}"
    raise ApiError(500, f"llama-server process has terminated: {how}")


def _command(spec: Spec) -> list[str]:
    command = [sys.executable, "-P", "-m", f"{__package__}.runner", "--model", str(spec.model)]
    for adapter in spec.adapters:
        command += ["--adapter", str(adapter)]
    command += ["--context", str(spec.context), "--parallel", str(spec.parallel), "--batch", str(spec.batch)]
    command += [flag for flag, wanted in (("--shift", spec.shift), ("--embedding", spec.embedding)) if wanted]
    return [*command, "--parent", str(os.getpid())]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", ""))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
