"""The lm-evaluation-harness as a command of its own: it asks a served model over /v1 and writes its results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fleetssd.errors import Misconfigured, Transient
from fleetssd.guards.harness import TaskScore, parse_results

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
_INSTALL = 'Install it (`pip install "lm_eval[api]"`) and name it in [guards] lm_eval_command, or name no tasks.'


class LmEval:
    """Runs `lm_eval` once a model; tasks keep their own decode, which is greedy unless they say otherwise.

    A task may be the path of a YAML file that has the task's own name.
    """

    def __init__(self, command: str, url: str, tasks: Sequence[str], *, limit: int, concurrency: int) -> None:
        found = shutil.which(command)
        if found is None:
            raise Misconfigured(f"there is no command {command} for [guards] lm_eval_tasks", hint=_INSTALL)
        self._command, self._url, self._tasks = found, url, tuple(tasks)
        self._limit, self._concurrency = limit, concurrency

    def score(self, model: str, folder: Path) -> tuple[TaskScore, ...]:
        """Ask a model every task and return one score a task; what the harness writes goes to `folder`.

        Raises Transient where it fails, with the last line that it wrote, and Corrupt where its results lack a task.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = subprocess.run(self._arguments(model, folder), env=_environment(), capture_output=True, check=False)
        results = sorted(folder.rglob("results*.json"))
        if done.returncode or not results:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise Transient(
                f"lm_eval ended with {done.returncode}: {said[-1][:300] if said else 'it said nothing'}",
                hint="Run it by hand, or take the tasks out of [guards] lm_eval_tasks.",
            )
        named = [Path(task).stem if task.endswith(".yaml") else task for task in self._tasks]
        return parse_results(json.loads(results[-1].read_text(encoding="utf-8")), named)

    def _arguments(self, model: str, folder: Path) -> list[str]:
        where = f"model={model},base_url={self._url}/v1/chat/completions"
        return [
            self._command, "--model", "local-chat-completions",
            "--model_args", f"{where},num_concurrent={self._concurrency},max_retries=3,tokenized_requests=False",
            "--tasks", ",".join(self._tasks), "--limit", str(self._limit), "--apply_chat_template",
            "--output_path", str(folder),
        ]  # fmt: skip


def _environment() -> dict[str, str]:
    """Return what the harness needs of our environment; it asks for an OpenAI key even where none is used."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("HF_")}
    return {**kept, "OPENAI_API_KEY": "none", "TOKENIZERS_PARALLELISM": "false"}
