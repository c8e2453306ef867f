"""A call of the fleet's as a value: who asked, which checkpoint answered, and what it cost; never what was said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

TaskSource: TypeAlias = Literal["header", "body", "conversation", "none"]
"""Where a call's task key is from: X-Fleetssd-Task, a field of the body, or a hash of how the conversation begins."""

Fault: TypeAlias = Literal["", "refused", "engine", "away", "cut", "gone", "late"]
"""What went wrong: the gateway refused, the engine said an error, no engine answered, the answer broke off, the caller
hung up, or it took too long (shadow calls alone)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One answer to one request, or why there is none.

    `id` is the X-Fleetssd-Request of a caller's own call. A further call that was made for it has an id of its own
    and names it in `of`: a shadow's, or a candidate's failure that the incumbent answered in the end.
    `checkpoint` is the artefact's digest, None where the model is no checkpoint on file. `status` is the engine's (or
    the gateway's own) HTTP status, 0 where there was none. `finish` is `stop`, `length`, `load`, `unload`,
    `tool_calls` or the engine's own word; empty where it was not told. Tokens are None where the engine told none.
    `empty` is whether an answer ended well and held nothing, None where that is not known.
    Times are ns: how long it was held, until the first byte of the answer (None: there was none), and in all; `load_ns`
    is the engine's own (loading and waiting for it).
    """

    id: str
    at: datetime
    agent: str
    task: str
    task_source: TaskSource
    path: str
    asked: str
    model: str
    checkpoint: str | None
    status: int
    total_ns: int
    fault: Fault = ""
    finish: str = ""
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    empty: bool | None = None
    streamed: bool = False
    held_ns: int = 0
    first_ns: int | None = None
    load_ns: int | None = None
    shadow: bool = False
    of: str = ""
    request: bytes | None = None
    reply: bytes | None = None
    """Bodies as the engine saw and said them; None unless texts are switched on."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Calls that are not on file: how many, and between which two moments they were dropped."""

    calls: int
    since: datetime
    until: datetime
