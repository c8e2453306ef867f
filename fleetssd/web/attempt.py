"""What is told of a call: filled while it runs, handed to the sink when it is over."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from fleetssd.calls import Call, Fault, TaskSource
from fleetssd.endings import TAIL, ending, says

TEXT_BYTES = 1_000_000
"""What is kept of a body, at most, where texts are switched on."""
_PROCESS, _NUMBERS = os.urandom(8).hex(), count(1)
_ODD = 0x9E3779B1  # prime, so that its multiples meet every remainder once
_ENDED = ("stop", "length", "tool_calls")


def new_id() -> str:
    """Return a request id: 32 hex digits that no other process and no later request has.

    The first eight never repeat within four billion requests of a process: whoever reads them out names one call.
    """
    number = next(_NUMBERS)
    return f"{number * _ODD & 0xFFFFFFFF:08x}{_PROCESS}{number >> 32:08x}"


@dataclass(slots=True)
class Attempt:
    """One request to the engine: the caller's own, a candidate's failure in its place, or a shadow."""

    id: str
    agent: str
    path: str
    asked: str
    model: str
    checkpoint: str | None
    task: str = ""
    task_source: TaskSource = "none"
    of: str = ""
    shadow: bool = False
    texts: bool = False
    request: bytes = b""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: int = field(default_factory=time.perf_counter_ns)
    first: int | None = None
    held_ns: int = 0
    status: int = 0
    fault: Fault = ""
    streamed: bool = False
    said: bool = False
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=TAIL))
    reply: bytearray = field(default_factory=bytearray)

    def hear(self, line: bytes) -> None:
        """Take a line of a streamed reply, or a whole one."""
        if self.first is None:
            self.first = time.perf_counter_ns()
        if len(line) > 1:
            self.tail.append(line)
            self.said = self.said or says(line)
        if self.texts and len(self.reply) < TEXT_BYTES:
            self.reply += line

    def beside(self, name: str, *, of: str = "", shadow: bool = False) -> Attempt:
        """Return another attempt at the same request: as old as this one, unless it is a shadow, which begins now."""
        other = Attempt(
            name, self.agent, self.path, self.asked, self.model, None, self.task, self.task_source,
            of=of, shadow=shadow, texts=self.texts,
        )  # fmt: skip
        if not shadow:
            other.at, other.began, other.held_ns = self.at, self.began, self.held_ns
        return other

    def call(self) -> Call:
        """Return the call as it stands now, at its end."""
        now, end = time.perf_counter_ns(), ending(self.tail)
        fault = self.fault or ("engine" if end.failed or self.status >= 400 else "")
        return Call(
            id=self.id,
            at=self.at,
            agent=self.agent,
            task=self.task,
            task_source=self.task_source,
            path=self.path,
            asked=self.asked,
            model=self.model,
            checkpoint=self.checkpoint,
            status=self.status,
            total_ns=now - self.began,
            fault=fault,
            finish=end.finish,
            prompt_tokens=end.prompt_tokens,
            answer_tokens=end.answer_tokens,
            empty=not self.said if end.finish in _ENDED and not fault else None,
            streamed=self.streamed,
            held_ns=self.held_ns,
            first_ns=None if self.first is None else self.first - self.began,
            load_ns=end.load_ns,
            shadow=self.shadow,
            of=self.of,
            request=self.request[:TEXT_BYTES] if self.texts else None,
            reply=bytes(self.reply[:TEXT_BYTES]) if self.texts else None,
        )
