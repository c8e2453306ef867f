"""The callback that every backend trains under: reports steps, stops on request, ends a run that went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetssd.adapters.backends.durable import mark_whole
from fleetssd.errors import Rejected
from fleetssd.training import (
    VANISHED_BEFORE,
    VANISHED_HINT,
    VANISHED_STEPS,
    VANISHED_WORDS,
    vanished,
)

Step = Callable[[int, int, float], None]
"""Called after every optimiser step with (step, steps, loss)."""


def guard(callback: type[Any], on_step: Step, stopped: Callable[[], bool]) -> Any:
    """Build it on the TrainerCallback of transformers, which MLX's trainer calls too."""

    class Guard(callback):  # type: ignore[misc]
        last: tuple[float, ...] = ()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stopped() and state.global_step < state.max_steps:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            values = [float(logs[key]) for key in ("loss", "grad_norm") if logs and key in logs]
            if not values:
                return
            if not all(math.isfinite(value) for value in values):
                raise Rejected(
                    f"the loss or its gradient became NaN or infinite at step {state.global_step}",
                    hint="Lower recipe.learning_rate; check the base's weights.",
                )
            self.last = (*self.last, values[0])[-VANISHED_STEPS:]
            if state.global_step <= int(state.max_steps * VANISHED_BEFORE) and vanished(self.last):
                raise Rejected(VANISHED_WORDS, hint=VANISHED_HINT)
            on_step(state.global_step, state.max_steps, values[0])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Guard()
