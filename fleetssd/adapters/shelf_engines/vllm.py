"""vLLM as an engine: adapters are loaded while it runs, each under a name of its own; it has no aliases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from fleetssd.adapters.shelf_engines.asking import Asker
from fleetssd.adapters.shelf_engines.on_shelf import OnShelf
from fleetssd.adapters.shelf_engines.shelf import Shelf
from fleetssd.adapters.shelf_engines.wire import Wire
from fleetssd.artefact import Probe, same_name
from fleetssd.config import EngineKind
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.in_flight import FAILED
from fleetssd.ports import Completion, Places, Pointed, Progress, Prompt
from fleetssd.recipe import Sampling
from fleetssd.shelf import PEFT, Applied, aimed, served_digest


class VllmEngine(OnShelf):
    """A vLLM server behind the Engine port: a name is an adapter of the folder, the alias is a line of its table.

    The table is what we ask by; the fleet's requests get the alias from the gateway. A name is never loaded twice with
    other contents, for vLLM's prefix cache knows adapters by name.
    """

    kind: EngineKind = "vllm"

    def __init__(
        self,
        url: str,
        base_model: str,
        alias: str,
        shelf: Shelf,
        *,
        weights: Path,
        gguf: Path,
        timeout: float = 120.0,
        concurrency: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__("vLLM", base_model, alias, shelf)
        self._wire = Wire(url, timeout, transport)
        self._weights, self._gguf = weights, gguf
        self._asker = Asker(self._wire, concurrency, Sampling.vllm)

    def close(self) -> None:
        """End every request and close every connection."""
        self._asker.close()
        self._wire.close()

    # --- reading

    def version(self) -> str:
        """Return what the server says that it is; for reports and caches, never for decisions."""
        return f"vllm {self._wire.json('GET', '/version').get('version', 'unknown')}"

    def digest_of(self, model: str) -> str | None:
        """Return the digest of what a name means, base and adapter; None where the folder has no such name.

        Raises Misconfigured where vLLM does not serve the base.
        """
        aim = self._aim(model)
        if same_name(aim, self._base):
            return served_digest(self._blob(), None, "")
        adapter = self._shelf.digest(aim) if aim in self._shelf.names() else None
        return served_digest(self._blob(), adapter, "") if adapter else None

    def names(self) -> dict[str, str]:
        """Return every name with its digest: the base, the alias and each adapter of the folder."""
        models = [self._base, self._alias, *self._shelf.names()]
        return {model: digest for model in models if (digest := self.digest_of(model))}

    def blob_of(self, model: str) -> str:
        """Return the sha256 (hex) of the base's GGUF, proven by the weights that vLLM serves being the GGUF's own."""
        self._must(model)
        return self._blob()

    def adapter_of(self, model: str) -> str | None:
        """Return the sha256 (hex) of the GGUF that a name's adapter is known by."""
        self._must(model)
        aim = self._aim(model)
        return None if same_name(aim, self._base) else self._shelf.digest(aim)

    def carried(self, model: str) -> dict[str, object]:
        """Return nothing: a model's template and defaults are the base's, for only its matrices are brought in."""
        self._must(model)
        return {}

    def rendered(self, model: str, text: str) -> str | None:
        """Return the prompt as the server's tokens spell it; None where it has no such route."""
        self._must(model)
        name = self._ready(model)
        messages = [{"role": "user", "content": text}]
        try:
            tokens = self._wire.json("POST", "/tokenize", {"model": name, "messages": messages})["tokens"]
            return str(self._wire.json("POST", "/detokenize", {"model": name, "tokens": tokens})["prompt"])
        except Rejected:
            return None

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, with their digests."""
        served = self._served()
        return {name: digest for name, digest in self.names().items() if self._aim(name) in served}

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Chat with a model, many prompts at once; an adapter that a restarted server forgot is loaded first.

        Failures are `finish="error"`. Raises Transient where the server is gone altogether.
        """
        if self.digest_of(model) is None:
            return [FAILED] * len(prompts)
        return self._asker.complete({"model": self._ready(model)}, prompts, sampling, progress)

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Chat and return, place by place of each answer, the log-probabilities of the likeliest tokens."""
        self._must(model)
        return self._asker.likelihoods({"model": self._ready(model)}, prompts, sampling)

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens by their text."""
        self._must(model)
        return self._asker.first_tokens({"model": self._ready(model)}, prompts)

    # --- installing

    def create(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Give an uploaded adapter its name, load it under that name and return the digest.

        Raises Misconfigured for anything but an adapter on the base, or where vLLM may not load any; Rejected with its
        words where it does not take this one.
        """
        if adapter is None or blob not in (None, self._blob()):
            raise Misconfigured("vLLM serves one base; only adapters on it come in", hint=_ADAPTERS_ONLY)
        self._on_base(base_model)
        self._shelf.link(model, adapter)
        if not self._shelf.has(model, *PEFT):
            raise Misconfigured(f"{model} has no files that vLLM reads", hint=f"It needs {' and '.join(PEFT)}.")
        self._ready(model)
        return str(self.digest_of(model))

    # --- serving

    def preload(self, model: str) -> None:
        """Load a model and keep it, as long as max_cpu_loras lets vLLM."""
        self._must(model)
        self._ready(model)

    def release(self, model: str) -> None:
        """Do nothing: vLLM lets the least used of its adapters go by itself."""

    def point(self, alias: str, model: str) -> Pointed:
        """Load a model and note that the alias means it; the gateway sends the fleet's requests there.

        Raises Rejected where there is no such model.
        """
        self._one_alias(alias, "the gateway")
        self._must(model)
        self._shelf.point(self._alias, self._ready(model))
        return Pointed()

    def remove(self, model: str) -> None:
        """Unload a name and take it out of the folder; a missing one is no error."""
        self._removable(model)
        if model in self._served():
            self._load("unload", {"lora_name": model})
        self._shelf.unlink(model)

    # --- probing

    def probe(self) -> Probe:
        """Find out by asking what the server does; nothing is left behind.

        Raises Misconfigured where it serves another base, or may not load adapters.
        """
        self._blob()
        try:
            self._load("unload", {"lora_name": "fleetssd-probe"})
        except Rejected as refusal:
            if "cannot be found" not in refusal.message:
                raise
        return Probe(self.version(), creates_adapters=True, loads_adapters=True, logprobs=True, renders=True)

    def held(self) -> tuple[Applied, ...]:
        """Return nothing: vLLM knows adapters by name, not by number."""
        return ()

    # --- parts

    def _served(self) -> dict[str, str]:
        """Return the names that vLLM serves, each with the path that it was loaded from."""
        table = self._wire.json("GET", "/v1/models")
        try:
            return {str(row["id"]): str(row.get("root") or "") for row in table["data"]}
        except (TypeError, KeyError):
            raise Corrupt("/v1/models answered something else", hint="Does [engine] url name a vLLM server?") from None

    def _blob(self) -> str:
        """Prove that vLLM serves the weights that nights train on, and return the digest of their GGUF."""
        root = self._served().get(self._base)
        if root is None:
            raise Misconfigured(
                f"vLLM serves no model {self._base}",
                hint="Start it with --served-model-name, or set [engine] base_model.",
            )
        if not Path(root).is_dir() or Path(root).resolve() != self._weights.resolve():
            raise Misconfigured(
                f"vLLM serves {root}, nights train on {self._weights}",
                hint="Start vLLM on the folder of [base] weights.",
            )
        return self._shelf.file_digest(self._gguf)

    def _aim(self, model: str) -> str:
        """Follow the alias; one that was never pointed means the base."""
        return aimed({self._alias: self._base} | self._shelf.aliases(), model)

    def _must(self, model: str) -> None:
        if self.digest_of(model) is None:
            raise Rejected(f"the engine has no model {model}", hint="Was it deleted by hand?", status=404)

    def _ready(self, model: str) -> str:
        """Return the name that vLLM answers to for a model, loaded from our folder and from nowhere else."""
        name, served = self._aim(model), self._served()
        if same_name(name, self._base):
            return self._base
        path = self._shelf.folder.resolve() / name
        if name not in served:
            self._load("load", {"lora_name": name, "lora_path": str(path)})
        elif Path(served[name]).resolve() != path:
            raise Corrupt(f"vLLM has {name} from {served[name]}", hint="Only fleetssd may load names of its alias.")
        return name

    def _load(self, way: str, body: dict[str, Any]) -> None:
        try:
            self._wire.json("POST", f"/v1/{way}_lora_adapter", body)
        except Rejected as refusal:
            if refusal.status in (404, 405) and "adapter" not in refusal.message:
                raise Misconfigured("vLLM may not load adapters while it runs", hint=_RUNTIME) from None
            if "No adapter found" in refusal.message:
                raise Misconfigured(f"vLLM does not see {body['lora_path']}", hint=_UNSEEN) from None
            if "already" not in refusal.message:
                raise


_ADAPTERS_ONLY = 'Set [engine] road = "auto" and [decode] manage to "none" or "gateway".'
_UNSEEN = "Mount [engine] adapters_dir under the same path where vLLM runs."
_RUNTIME = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
