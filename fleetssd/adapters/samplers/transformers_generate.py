"""Training samples from the generate of transformers or of Unsloth, in a child process that alone loads torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import fleetssd
from fleetssd.adapters.samplers.drawing import GONE, Meter
from fleetssd.errors import Misconfigured, Transient
from fleetssd.ports import Completion, Progress, Prompt
from fleetssd.recipe import Sampling

_ROOT = Path(fleetssd.__file__).resolve().parents[1]
"""Where the child finds this package, by whichever Python it runs."""


class TransformersSampler:
    """Draws completions from the base's Hugging Face folder; a context manager that runs the child.

    The child applies the warpers in the order that it is told, and draws each prompt by a generator of its own seed.
    """

    def __init__(
        self,
        weights: Path,
        *,
        context: int,
        python: Path | None = None,
        at_once: int = 16,
        threads: int = 1,
        unsloth: bool = False,
    ) -> None:
        self.name = self._library = "unsloth" if unsloth else "transformers"
        self._weights = weights
        options = ["--context", str(context), "--batch", str(at_once), "--threads", str(threads)]
        child = ["-P", "-m", "fleetssd.adapters.samplers.transformers_child", "--model", str(weights)]
        self._command = [str(python or Path(sys.executable)), *child, *options, "--library", self._library]
        self._threads = threads
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> TransformersSampler:
        """Start the child and wait until it has loaded the model. Raises Misconfigured where it cannot."""
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "UNSLOTH_DISABLE_STATISTICS": "1"}
        threads = {"OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._compiled = tempfile.TemporaryDirectory(prefix="fleetssd-")  # Unsloth writes what it compiles somewhere
        quiet |= {"UNSLOTH_AUTO_INSTALL": "0", "UNSLOTH_COMPILE_LOCATION": self._compiled.name}
        words = Path(self._compiled.name, "stderr")
        with words.open("wb") as heard:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=heard,
                env=os.environ | quiet | threads | {"PYTHONPATH": str(_ROOT)},
                text=True,
            )
        told = self._read()
        if "engine" not in told:
            last = " ".join(words.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])
            self.__exit__(None, None, None)
            raise Misconfigured(
                f"{self._library} does not load {self._weights}: {told.get('error') or last or 'it ended at once'}",
                hint="[base] weights names a Hugging Face folder; `pip install 'fleetssd[train]'` brings transformers, "
                "`fleetssd[unsloth]` Unsloth.",
            )
        self._engine = self.name = str(told["engine"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child, whatever it does."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._compiled.cleanup()

    @property
    def pid(self) -> int:
        """The child's process id; 0 where there is no child."""
        return self._child.pid if self._child else 0

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order; a prompt that does not fit the context is `finish="error"`.

        Raises Transient where the child is gone.
        """
        self.name = f"{self._engine}; {sampling.described}"
        meter, answers = Meter(len(prompts), progress), dict[int, Completion]()
        self._write({"prompts": [asdict(prompt) for prompt in prompts], "sampling": asdict(sampling)})
        while len(answers) < len(prompts):
            told = self._read()
            if "at" not in told:
                raise Transient(f"the sampler is gone: {told.get('error', 'it ended')}", hint=GONE)
            completion = Completion(str(told["text"]), str(told["finish"]), int(told["tokens"]))
            answers[int(told["at"])] = completion
            meter.count(completion)
        return [answers[at] for at in range(len(prompts))]

    def _write(self, job: dict[str, Any]) -> None:
        assert self._child is not None  # noqa: S101  the block has begun
        assert self._child.stdin is not None  # noqa: S101  it was opened as a pipe
        try:
            self._child.stdin.write(json.dumps(job) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise Transient("the sampler is gone", hint=GONE) from None

    def _read(self) -> dict[str, Any]:
        assert self._child is not None  # noqa: S101  the block has begun
        assert self._child.stdout is not None  # noqa: S101  it was opened as a pipe
        for line in self._child.stdout:
            if line.startswith("{"):  # anything else is a library's own chatter
                table: dict[str, Any] = json.loads(line)
                return table
        return {}
