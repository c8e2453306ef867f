"""OllamaEngine: install, point, ask and prove, over one server."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx

from fleetssd import artefact
from fleetssd.adapters.ollama_engine import trying
from fleetssd.adapters.ollama_engine.chat import Chat
from fleetssd.adapters.ollama_engine.wire import Wire
from fleetssd.artefact import MANIFEST, Blob, Manifest, Probe, same_name, split_tag
from fleetssd.config import EngineKind
from fleetssd.errors import Corrupt, Misconfigured, Rejected, Transient
from fleetssd.ports import Completion, Places, Pointed, Progress, Prompt
from fleetssd.recipe import Sampling
from fleetssd.shown import Shown, read_show

Serve = Callable[[str, bytes, str], AbstractContextManager[str]]
"""Opens a registry of one path: (path, body, media type) to `host:port`, for as long as the block lasts."""

REPOSITORY = "fleet/coder"
ORPHAN = "fleetssd-orphan:x"
POINT_TRIES = 8
POINT_PAUSE = 0.01
"""Seconds between tries: the window in which a copied alias is half written is 2 to 6 ms."""
MOMENT, PATIENCE = 1.0, 30.0
"""Seconds without an answer that are quiet, and how long they are waited for."""


class OllamaEngine:
    """An Ollama-compatible server behind the Engine port; `serve` lends it a registry of one manifest."""

    kind: EngineKind = "ollama"

    def __init__(
        self,
        url: str,
        base_model: str,
        serve: Serve,
        *,
        timeout: float = 120.0,
        concurrency: int = 4,
        num_ctx: int | None = None,
        folder: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._wire = Wire(url, timeout, transport)
        self._base = base_model
        self._serve = serve
        self._chat = Chat(self._wire, concurrency, num_ctx)
        self._num_ctx = num_ctx
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def close(self) -> None:
        """End every request and close every connection."""
        self._chat.close()
        self._wire.close()

    # --- reading

    def digest_of(self, model: str) -> str | None:
        """Return the server's digest of a name (tags), or None where there is no such name."""
        row = self._tag(model)
        return str(row["digest"]) if row else None

    def names(self) -> dict[str, str]:
        """Return every name with the server's digest of it, as the server writes names."""
        rows = self._wire.json("GET", "/api/tags").get("models") or []
        return {str(row.get("name", "")): str(row["digest"]) for row in rows}

    def blob_of(self, model: str) -> str:
        """Return the sha256 (hex) of the model's own GGUF, read from show's FROM line."""
        return self._show(model).blob

    def adapter_of(self, model: str) -> str | None:
        """Return the sha256 (hex) of the model's adapter, read from show's ADAPTER line; two lines raise Corrupt."""
        adapters = self._show(model).adapters
        if len(adapters) > 1:
            raise Corrupt(f"{model} has {len(adapters)} adapters stacked", hint="Remove that name and install again.")
        return adapters[0] if adapters else None

    def carried(self, model: str) -> dict[str, object]:
        """Return what a model has of its base beside weights, as `show` tells it."""
        return artefact.carried(self._show(model))

    def rendered(self, model: str, text: str) -> str | None:
        """Return the prompt as the server renders it for one user message; None where it cannot say."""
        messages = [{"role": "user", "content": text}]
        _ours(model)
        body = {"model": model, "messages": messages, "stream": False, "_debug_render_only": True}
        options = {"options": {"num_ctx": self._num_ctx}} if self._num_ctx else {}
        info = self._wire.json("POST", "/api/chat", body | options, slow=True).get("_debug_info")
        found = info.get("rendered_template") if isinstance(info, dict) else None
        return str(found) if found is not None else None

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, with the server's digests."""
        return self._wire.loaded()

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Chat with a model, many prompts at once, every sampling parameter sent; failures are `finish="error"`.

        Raises Transient where the server is gone altogether.
        """
        _ours(model)
        return self._chat.complete(model, prompts, sampling, progress)

    # --- installing

    def holds(self, blob: str) -> bool:
        """Say whether the server's blob store has a file (sha256) already."""
        return self._wire.send("HEAD", f"/api/blobs/sha256:{blob}", missing_ok=True).status_code == 200

    def upload(self, path: Path) -> str:
        """Put a file into the server's blob store (HEAD, then POST) and return its sha256 (hex)."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._sizes[digest] = path.stat().st_size
            if not self.holds(digest):
                file.seek(0)
                self._wire.send("POST", f"/api/blobs/sha256:{digest}", slow=True, content=file)
        return digest

    def pull(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install a model by a manifest that we serve on loopback; return the server's digest.

        It is the base with another GGUF (`blob`; None: the base's own) and an adapter, both uploaded before (sha256).
        The digest is the sha256 of the manifest, known before. Raises Corrupt where the server then shows another.
        """
        base = self._local(base_model)
        file = Blob(base.blob, self._own_size(base_model, base)) if blob in (None, base.blob) else self._blob(blob)
        manifest = artefact.manifest(base, file, self._blob(adapter) if adapter else None)
        self._pull(model, manifest)
        self._prove(model, adapter, manifest.digest)
        return manifest.digest

    def create(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install the same by the server's own create; return its digest.

        What is not made from the base itself is given the base's system, template, parameters, licence, renderer and
        parser. Raises Corrupt where the base has an adapter, or the server shows another than was sent.
        """
        base = self._local(base_model)
        if base.adapters:
            raise Corrupt("the base has an adapter already: a second one would be added", hint="Use the pristine base.")
        source = {"from": base_model} if blob in (None, base.blob) else {"files": {"model.gguf": f"sha256:{blob}"}}
        body = {"model": model, **source, **(artefact.carried(base) if "files" in source else {}), "stream": False}
        body |= {"adapters": {"adapter.gguf": f"sha256:{adapter}"}} if adapter else {}
        self._wire.json("POST", "/api/create", body, slow=True)
        return self._prove(model, adapter, None)

    # --- serving

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Chat and return, place by place of each answer, the log-probabilities of the likeliest tokens."""
        _ours(model)
        return self._chat.likelihoods(model, prompts, sampling)

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Chat and return the log-probabilities of each answer's likeliest first tokens, by their text."""
        _ours(model)
        return self._chat.first_tokens(model, prompts)

    def preload(self, model: str) -> None:
        """Load a model and keep it."""
        _ours(model)
        self._wire.preload(model, self._num_ctx)

    def quiet(self, model: str) -> bool:
        """Wait for a moment in which no answer of this model ends; False where there was none in `PATIENCE` seconds.

        The time at which a model would expire moves with every answer that ends. One that takes longer than a moment
        is not seen: the engine lets it end before it loads another model.
        """
        end, last = time.monotonic() + PATIENCE, self._expires(model)
        while last is not None and time.monotonic() < end:
            time.sleep(MOMENT)
            now = self._expires(model)
            if now == last:
                return True
            last = now
        return last is None

    def release(self, model: str) -> None:
        """Let a model leave memory once its last request has ended; one that is not loaded is no error.

        It is told by its digest: models of one file share one place in memory, and another one may be in it.
        """
        if self.digest_of(model) in self.loaded().values():
            with self._wire.told():
                self._wire.patient.generate(model, "", keep_alive=0)

    def point(self, alias: str, model: str) -> Pointed:
        """Make the alias serve this model; a broken alias is copied again, and for how long it may have been is told.

        Raises Rejected where there is no such model, Corrupt where the alias stays broken.
        """
        wanted = self.digest_of(model)
        if wanted is None:
            raise Rejected(f"the engine has no model {model}", hint="Was it deleted by hand?", status=404)
        began = time.monotonic()
        for copies in range(1, POINT_TRIES + 1):
            if self._copied(model, alias) and self.digest_of(alias) == wanted:
                return Pointed(copies, time.monotonic() - began)
            time.sleep(POINT_PAUSE)
        raise Corrupt(f"{alias} does not serve {model} after {POINT_TRIES} copies", hint="Is the engine's disk full?")

    def remove(self, model: str) -> None:
        """Delete a name; a missing one is no error."""
        trying.remove(self._wire, model)

    def drop(self, blob: str, base_model: str) -> bool:
        """Let the server drop a file (sha256) that no name refers to; False where it has none, or keeps it.

        There is no way to delete a blob: a name is made that refers to it, and deleting that name takes it along.
        """
        if not self.holds(blob):
            return False
        base = self._show(base_model)
        try:
            own = Blob(base.blob, self._own_size(base_model, base))
            self._pull(ORPHAN, artefact.manifest(base, own, self._blob(blob)))
        except (Rejected, Corrupt):
            return False  # by create it would be written once more; the server drops it at its next start
        finally:
            self.remove(ORPHAN)
        return not self.holds(blob)

    def room(self) -> int | None:
        """Return the bytes that are free where the server keeps its models; None where we cannot see that."""
        if self._folder is None:
            return None
        try:
            return shutil.disk_usage(self._folder).free
        except OSError as error:
            raise Misconfigured(
                f"cannot look at {self._folder}: {error.strerror}", hint="Set [engine] models_dir to its model folder."
            ) from None

    # --- probing

    def version(self) -> str:
        """Return what the server says that it is; for reports and caches, never for decisions."""
        return str(self._wire.json("GET", "/api/version").get("version", "unknown"))

    def probe(self) -> Probe:
        """Find out by trying what the server accepts; nothing that it tries is left behind."""
        row = self._tag(self._base)
        if row is None:
            raise Misconfigured(
                f"the engine has no model {self._base}", hint="Create it, or name another in [engine] base_model."
            )
        trial = trying.Trial(self._wire, self._base, int(row["size"]), put=self._put, pull=self._pull)
        return trial.run(self.version())

    # --- parts

    def _pull(self, model: str, manifest: Manifest) -> None:
        for content in manifest.blobs:
            self._put(content)
        tag = split_tag(model)[1]
        self._tidy(tag)
        with self._serve(f"/v2/{REPOSITORY}/manifests/{tag}", manifest.body, MANIFEST) as netloc:
            long_name = f"{netloc}/{REPOSITORY}:{tag}"
            try:
                body = {"model": f"http://{long_name}", "insecure": True, "stream": False}
                self._wire.json("POST", "/api/pull", body, slow=True)
                self.point(model, long_name)
            finally:
                self.remove(long_name)

    def _tidy(self, tag: str) -> None:
        """Remove the long names that a pull of this tag left when it was killed: they would hold its files for ever."""
        for name in self.names():
            host, _, rest = name.partition("/")
            if ":" in host and rest.lower() == f"{REPOSITORY}:{tag}".lower():
                self.remove(name)

    def _prove(self, model: str, adapter: str | None, wanted: str | None) -> str:
        """Return the server's digest of a new name with exactly this adapter, and with this digest if one is wanted."""
        digest = self.digest_of(model)
        if digest is None or wanted not in (None, digest) or self.adapter_of(model) != adapter:
            raise Corrupt(
                f"{model} is not what was installed under that name", hint="Does anything else write to the engine?"
            )
        return digest

    def _blob(self, digest: str) -> Blob:
        return Blob(digest, self._sizes.get(digest, 0))

    def _copied(self, source: str, destination: str) -> bool:
        try:
            with self._wire.told():
                self._wire.client.copy(source, destination)
            self._show(destination)
        except (Transient, Corrupt):
            return False
        return True

    def _put(self, content: bytes) -> str:
        digest = artefact.sha256(content)
        if not self.holds(digest):
            self._wire.send("POST", f"/api/blobs/sha256:{digest}", content=content)
        return digest

    def _show(self, model: str) -> Shown:
        return read_show(self._wire.json("POST", "/api/show", {"model": model}))

    def _local(self, model: str) -> Shown:
        """Describe a model that is here. A name that is not would be fetched from a registry by create and pull."""
        _ours(model)
        if self._tag(model) is None:
            raise Rejected(
                f"the engine has no model {model}", hint="Create it there first; nothing is fetched.", status=404
            )
        return self._show(model)

    def _expires(self, model: str) -> str | None:
        digest = self.digest_of(model)
        rows = self._wire.json("GET", "/api/ps").get("models") or []
        return next((str(row.get("expires_at")) for row in rows if row.get("digest") == digest), None)

    def _own_size(self, model: str, shown: Shown) -> int:
        row = self._tag(model)
        return artefact.own_size(shown, int(row["size"])) if row else 0

    def _tag(self, model: str) -> dict[str, Any] | None:
        rows = self._wire.json("GET", "/api/tags").get("models") or []
        return next((row for row in rows if same_name(str(row.get("name", "")), model)), None)


def _ours(model: str) -> None:
    if artefact.elsewhere(model):
        raise Rejected(f"{model} is answered on ollama.com, not here", hint="Name a model without a `cloud` tag.")
