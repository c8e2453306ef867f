"""The only home of fakes: in-memory stand-ins behind the ports, for tests of what stands on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fleetssd.errors import Rejected
from fleetssd.ports import Completion, Grade, Job, Probe, Progress, Prompt
from fleetssd.recipe import Sampling


class Killed(BaseException):
    """Stands for kill -9: no `except Exception` and no `except FleetError` sees it."""


class FakeEngine:
    """Names to (digest, blob, adapter); `answer` writes the completions; `before` may raise before any call."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[str, str, str | None]] = {}
        self.running: dict[str, tuple[str, str]] = {}
        self.calls: list[str] = []
        self.answer: Callable[[str, Prompt], Completion] = lambda _model, _prompt: Completion("ok", "stop", 1)
        self.before: Callable[[str], None] = lambda _call: None
        self.templates: dict[str, str] = {}

    def _called(self, call: str) -> None:
        self.before(call)
        self.calls.append(call)

    def probe(self) -> Probe:
        """Say that adapters come in by registry only."""
        return Probe("fake", creates_adapters=False, pulls_from_loopback=True)

    def digest_of(self, model: str) -> str | None:
        """Return the digest under a name."""
        return self.models[model][0] if model in self.models else None

    def blob_of(self, model: str) -> str:
        """Return the file under a name."""
        return self.models[model][1]

    def adapter_of(self, model: str) -> str | None:
        """Return the adapter under a name."""
        return self.models[model][2]

    def upload(self, path: Path) -> str:
        """Take the file's text for its digest."""
        return path.read_text()

    def pull_adapter(self, model: str, base_model: str, base_blob: str, adapter: str) -> str:
        """Install an adapter."""
        self._called(f"pull {model}")
        self.models[model] = (f"manifest-{base_blob}-{adapter}", base_blob, adapter)
        return self.models[model][0]

    def create_merged(self, model: str, base_model: str, blob: str) -> str:
        """Install a merged file."""
        self._called(f"create {model}")
        self.models[model] = (f"manifest-{blob}", blob, None)
        return self.models[model][0]

    def rendered(self, model: str, text: str) -> str | None:
        """Return the model's template with the text in it."""
        return self.templates.get(model, "{}").format(text)

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Let `answer` write."""
        self._called(f"complete {model}")
        return [self.answer(model, prompt) for prompt in prompts]

    def preload(self, model: str) -> None:
        """Load; one model a file, as Ollama does it."""
        self._called(f"preload {model}")
        digest, blob, _ = self.models[model]
        self.running = {blob: (model, digest)} | {b: m for b, m in self.running.items() if b != blob}

    def loaded(self) -> dict[str, str]:
        """Return what is loaded."""
        return dict(self.running.values())

    def point(self, alias: str, model: str) -> None:
        """Copy a name."""
        self._called(f"point {model}")
        if model not in self.models:
            raise Rejected(f"no model {model}")
        self.models[alias] = self.models[model]

    def remove(self, model: str) -> None:
        """Delete a name."""
        self.models.pop(model, None)


class FakeSandbox:
    """Passes what contains the word `right`; `faulty` makes every run the sandbox's own failure."""

    def __init__(self) -> None:
        self.faulty = False

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Grade by one word."""
        texts = ["".join(text for _, text in job.files) for job in jobs]
        return [
            Grade(job.id, passed=not self.faulty and "right" in text, fault=self.faulty, detail="")
            for job, text in zip(jobs, texts, strict=True)
        ]

    def close(self) -> None:
        """Do nothing."""
