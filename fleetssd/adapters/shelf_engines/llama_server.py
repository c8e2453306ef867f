"""llama.cpp's server as an engine: adapters that it was started with, chosen by scale, request by request."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
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
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.in_flight import FAILED
from fleetssd.ports import Completion, Places, Pointed, Progress, Prompt
from fleetssd.recipe import Sampling
from fleetssd.shelf import ADAPTER, Applied, active, read_applied, scales, served_digest

LOOK_AGAIN = 0.1
"""Seconds between two looks at a server that starts."""
WORDS = 64
"""Words of a prompt that shows whether prompt caches are kept apart; llama-server keeps none that is very short."""


class LlamaServerEngine(OnShelf):
    """A llama-server behind the Engine port: a name is an adapter of the folder, the alias is its global scales.

    It reads adapter files at its start only, so a new one needs `reload` (argv of a restart), or a person who restarts
    it. Every request of ours, and of the gateway's, says which adapters apply and may use the prompt cache; the alias
    is for requests that say nothing, which must not.
    """

    kind: EngineKind = "llama-server"

    def __init__(
        self,
        url: str,
        base_model: str,
        alias: str,
        shelf: Shelf,
        *,
        reload: Sequence[str] = (),
        timeout: float = 120.0,
        concurrency: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__("llama-server", base_model, alias, shelf)
        self._wire = Wire(url, timeout, transport)
        self._reload, self._timeout = tuple(reload), timeout
        self._asker = Asker(self._wire, concurrency, _said)
        self._known: tuple[Applied, ...] = ()

    def close(self) -> None:
        """End every request and close every connection."""
        self._asker.close()
        self._wire.close()

    # --- reading

    def version(self) -> str:
        """Return what the server says that it is; for reports and caches, never for decisions."""
        return f"llama-server {self._props().get('build_info', 'unknown build')}"

    def digest_of(self, model: str) -> str | None:
        """Return the digest of what a name means: base, adapter and chat template; None where there is no such name."""
        props, held = self._props(), self._held()
        if not self._there(model, held):
            return None
        return served_digest(self._blob(props), self._adapter(model, held), str(props.get("chat_template", "")))

    def names(self) -> dict[str, str]:
        """Return every name with its digest: the base, the alias, and each adapter that server and folder both have."""
        held = self._held()
        models = [self._base, self._alias, *(one.name for one in held if one.name and self._there(one.name, held))]
        return {model: digest for model in models if (digest := self.digest_of(model))}

    def blob_of(self, model: str) -> str:
        """Return the sha256 (hex) of the one GGUF that the server has, read from the file that it names."""
        self._must(model, self._held())
        return self._blob(self._props())

    def adapter_of(self, model: str) -> str | None:
        """Return the sha256 (hex) of the adapter that a name applies; several at once raise Misconfigured."""
        held = self._held()
        self._must(model, held)
        return self._adapter(model, held)

    def carried(self, model: str) -> dict[str, object]:
        """Return the chat template, all that a model has beside weights; an adapter brings none of its own."""
        self._must(model, self._held())
        return {"template": str(self._props().get("chat_template", ""))}

    def rendered(self, model: str, text: str) -> str | None:
        """Return the prompt as the server renders it; the template is the base's, whatever the adapter."""
        self._must(model, self._held())
        messages = [{"role": "user", "content": text}]
        return str(self._wire.json("POST", "/apply-template", {"messages": messages})["prompt"])

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, which are all."""
        return self.names()

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Chat with a model, many prompts at once, every adapter's scale sent with every request.

        Failures are `finish="error"`. Raises Transient where the server is gone, or restarts meanwhile.
        """
        held = self._held()
        if not self._there(model, held):
            return [FAILED] * len(prompts)
        answers = self._asker.complete(self._whose(model, held), prompts, sampling, progress)
        self._same_server(held)
        return answers

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Chat and return, place by place of each answer, the log-probabilities of the likeliest tokens."""
        held = self._held()
        self._must(model, held)
        places = self._asker.likelihoods(self._whose(model, held), prompts, sampling)
        self._same_server(held)
        return places

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens by their text."""
        held = self._held()
        self._must(model, held)
        first = self._asker.first_tokens(self._whose(model, held), prompts)
        self._same_server(held)
        return first

    # --- installing

    def create(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Give an uploaded adapter its name, have the server read it, and return the digest.

        Raises Misconfigured for anything but an adapter on the server's own base, or where the server mixes the prompt
        caches of adapters; Transient where a person must restart it first.
        """
        if adapter is None or blob not in (None, self.blob_of(base_model)):
            raise Misconfigured("llama-server serves one GGUF; only adapters on it come in", hint=_ADAPTERS_ONLY)
        self._on_base(base_model)
        self._shelf.link(model, adapter)
        if not self._there(model, self._held()):
            self._restart(model)
        held = self._held()
        self._kept_apart(held)
        if self._adapter(model, held) != adapter:
            raise Corrupt(f"{model} is not what was installed under that name", hint="Who else writes the folder?")
        return str(self.digest_of(model))

    # --- serving

    def preload(self, model: str) -> None:
        """See that a model is there: every adapter that the server knows is loaded."""
        self._must(model, self._held())

    def release(self, model: str) -> None:
        """Do nothing: adapters stay in memory until the server's next start."""

    def point(self, alias: str, model: str) -> Pointed:
        """Set the global scales to a model, for requests that say nothing; answers that run keep theirs.

        Raises Rejected where there is no such model.
        """
        self._one_alias(alias, "llama-server")
        held = self._held()
        self._must(model, held)
        self._apply(model, held)
        return Pointed()

    def remove(self, model: str) -> None:
        """Take a name out of the folder; the server forgets the adapter at its next start."""
        self._removable(model)
        self._shelf.unlink(model)

    # --- probing

    def probe(self) -> Probe:
        """Find out by trying what the server does; nothing is left behind.

        Raises Misconfigured where several adapters apply at once, or where prompt caches of adapters are mixed.
        """
        held = self._held()
        active(held)
        self._blob(self._props())
        self._kept_apart(held)
        return Probe(self.version(), creates_adapters=True, loads_adapters=True, logprobs=True, renders=True)

    def held(self) -> tuple[Applied, ...]:
        """Return the adapters that the server holds with their ids; the last known ones while it is away.

        They keep their ids over a restart, so a request that waits for it may name them.
        """
        with contextlib.suppress(FleetError):  # whoever asks it for more is told
            self._known = self._held()
        return self._known

    # --- parts

    def _props(self) -> dict[str, Any]:
        props = self._wire.json("GET", "/props")
        if not isinstance(props, dict) or "model_path" not in props:
            raise Misconfigured(f"{self._wire.url} is no llama-server over one model", hint=_ONE_MODEL)
        return props

    def _held(self) -> tuple[Applied, ...]:
        return read_applied(self._wire.json("GET", "/lora-adapters"))

    def _blob(self, props: dict[str, Any]) -> str:
        return self._shelf.file_digest(Path(props["model_path"]))

    def _there(self, model: str, held: Sequence[Applied]) -> bool:
        if same_name(model, self._base) or same_name(model, self._alias):
            return True
        return any(one.name == model for one in held) and self._shelf.has(model, ADAPTER)

    def _must(self, model: str, held: Sequence[Applied]) -> None:
        if not self._there(model, held):
            raise Rejected(f"the engine has no model {model}", hint="Was it deleted by hand?", status=404)

    def _entry(self, model: str, held: Sequence[Applied]) -> str | None:
        """Return the adapter's name that a model means, None for the base."""
        if same_name(model, self._alias):
            on = active(held)
            return on.name if on else None
        return None if same_name(model, self._base) else model

    def _adapter(self, model: str, held: Sequence[Applied]) -> str | None:
        name = self._entry(model, held)
        return self._shelf.digest(name) if name is not None else None

    def _whose(self, model: str, held: Sequence[Applied]) -> dict[str, Any]:
        return {"lora": scales(held, self._entry(model, held))}

    def _same_server(self, before: Sequence[Applied]) -> None:
        """Raise Transient where ids changed their meaning: an answer may then be another adapter's."""
        if [(one.id, one.name) for one in self._held()] != [(one.id, one.name) for one in before]:
            raise Transient("llama-server restarted while it was asked", hint="Its adapters may be numbered anew.")

    def _apply(self, model: str, held: Sequence[Applied]) -> None:
        name = self._entry(model, held)
        self._wire.json("POST", "/lora-adapters", scales(held, name))
        on = active(self._held())  # it says success to ids that it does not know, too
        if (on.name if on else None) != name:
            raise Corrupt(f"llama-server does not apply {model}", hint="Does anything else post to /lora-adapters?")

    def _kept_apart(self, held: Sequence[Applied]) -> None:
        """Raise Misconfigured where a prompt that was read under one adapter is taken for one read under another.

        Without `--cache-ram 0` it is where it was pushed out of its slot by others; without `--no-cache-prompt` it is
        where a request says nothing of adapters. Each is tried with words that nobody asked before.
        """
        ours = next((one.name for one in held if one.name), None)
        texts = [_words() for _ in range(int(self._props().get("total_slots", 1)) + 2)]
        apart = [self._again(texts, scales(held, ours), scales(held, None))] if ours else []
        if not all(apart) or not self._again([_words()], None, None):
            raise Misconfigured("llama-server mixes the prompt caches of adapters", hint=_CACHE)

    def _again(self, texts: Sequence[str], first: Any, then: Any) -> bool:
        """Ask texts with one `lora` list (None: say nothing), then with another; say whether each was read again."""
        asked = [
            {"prompt": text, "n_predict": 1, **({"lora": how} if how else {})}
            for how in (first, then)
            for text in texts
        ]
        if first:
            asked = [body | {"cache_prompt": True} for body in asked]
        times = [self._wire.json("POST", "/completion", body).get("timings", {}) for body in asked]
        # A token or two may be the same adapter's own.
        return all(t.get("cache_n", 0) <= t.get("prompt_n", 0) for t in times[len(texts) :])

    def _restart(self, model: str) -> None:
        """Have the server read the folder again, and give it back the scales that it forgets."""
        if not self._reload:
            raise Transient(f"llama-server was started before {model} was there", hint=_RESTART)
        on = active(self._held())
        try:
            subprocess.run(self._reload, check=True, timeout=self._timeout, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise Misconfigured(
                f"[engine] reload_command failed: {type(error).__name__}", hint="Run it by hand; its output says why."
            ) from None
        end = time.monotonic() + self._timeout
        while not self._lists(model):
            if time.monotonic() > end:
                raise Transient(f"llama-server came back without {model}", hint=_RESTART)
            time.sleep(LOOK_AGAIN)
        self._apply(on.name if on and on.name else self._base, self._held())

    def _lists(self, model: str) -> bool:
        try:
            return any(one.name == model for one in self._held())
        except FleetError:
            return False  # it loads


def _words() -> str:
    return " ".join(secrets.token_hex(2) for _ in range(WORDS))


def _said(sampling: Sampling, seed: int) -> dict[str, Any]:
    order = {"samplers": list(sampling.order), "max_tokens": sampling.max_tokens}
    return {**sampling.llama_cpp(seed), **order, "cache_prompt": True}


_ADAPTERS_ONLY = 'Set [engine] road = "auto" and [decode] manage to "none" or "gateway".'
_ONE_MODEL = "Start llama-server with -m FILE; its router of many models is not supported."
_CACHE = "Start llama-server with --cache-ram 0 and --no-cache-prompt."
_RESTART = (
    "Restart it with one --lora for each adapter.gguf in [engine] adapters_dir; reload_command can do that every night."
)
