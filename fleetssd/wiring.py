"""The composition root: settings in, adapters out. Nothing else reads the environment or builds a client.

Imports stand inside the functions: a process loads only the dependencies of the parts that it opens.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import structlog

from fleetssd.adapters.clock import SteeredClock, SystemClock
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.ports import (
    Builder,
    Clock,
    Forge,
    Grounds,
    Harness,
    Hooks,
    Issues,
    Memory,
    Mirror,
    Preparer,
    Progress,
    Sampler,
    Sandbox,
    Trainer,
)
from fleetssd.records import Redact
from fleetssd.shelf import Applied
from fleetssd.surroundings import Limits
from fleetssd.twins import Sketch

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from fleetssd.adapters.gitea_http import GiteaForge
    from fleetssd.adapters.key_file import KeyFile
    from fleetssd.adapters.ollama_engine import OllamaEngine
    from fleetssd.adapters.retaindb import RetainDb
    from fleetssd.adapters.shelf_engines import LlamaServerEngine, VllmEngine
    from fleetssd.adapters.store import SqlStore
    from fleetssd.audit import Reading
    from fleetssd.guards import Item
    from fleetssd.night_report import NightReport
    from fleetssd.operations.night import Workshop
    from fleetssd.web.recorder import Recorder

    ServingEngine: TypeAlias = OllamaEngine | LlamaServerEngine | VllmEngine


def configure_logging() -> None:
    """Write one JSON line an event to stderr, with the bound ids."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def open_clock(settings: Settings) -> Clock:
    """Return the machine's clock, or the one that a file steers."""
    offset = settings.schedule.clock_offset_file
    return SystemClock() if offset is None else SteeredClock(offset)


def open_store(settings: Settings) -> SqlStore:
    """Open the database and bring its schema up to date."""
    from fleetssd.adapters.store import SqlStore  # noqa: PLC0415

    store = SqlStore.open(settings.database)  # first, because it says what is wrong with its folder
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return store


def open_forge(settings: Settings) -> GiteaForge:
    """Return the forge, authenticated by the token file."""
    from fleetssd.adapters.gitea_http import GiteaForge  # noqa: PLC0415

    return GiteaForge(settings.forge, settings.fleet)


@contextmanager
def open_hooks(settings: Settings, token_file: Path | None) -> Iterator[Hooks]:
    """Open the forge's webhooks with the token of that file, or the daemon's own, and close them with the block."""
    from fleetssd.adapters.gitea_admin import GiteaHooks  # noqa: PLC0415
    from fleetssd.adapters.gitea_http import read_token  # noqa: PLC0415

    hooks = GiteaHooks(settings.forge.url, read_token(token_file or settings.forge.token_file))
    try:
        yield hooks
    finally:
        hooks.close()


@contextmanager
def open_issues(settings: Settings, token_file: Path | None) -> Iterator[Issues]:
    """Open the forge's issues with the token of that file, or the daemon's own, and close them with the block."""
    from fleetssd.adapters.gitea_admin import GiteaIssues  # noqa: PLC0415
    from fleetssd.adapters.gitea_http import read_token  # noqa: PLC0415

    issues = GiteaIssues(settings.forge.url, read_token(token_file or settings.forge.token_file))
    try:
        yield issues
    finally:
        issues.close()


def read_webhook_secret(settings: Settings) -> str:
    """Return the webhook's secret. Raises Misconfigured where there is none."""
    from fleetssd.web.webhook import read_secret  # noqa: PLC0415

    try:
        secret = read_secret(settings.forge.webhook_secret_file)
        if secret:
            return secret.decode()
    except UnicodeDecodeError:
        raise Misconfigured("the webhook secret is not text", hint="Write letters and digits into its file.") from None
    raise Misconfigured(
        "no webhook secret is configured",
        hint="Write one into a file (openssl rand -hex 32) and name it in forge.webhook_secret_file.",
    )


def deliveries_seen(settings: Settings) -> dict[str, int] | None:
    """Return how many deliveries the running daemon took and turned away; None where it is not up."""
    from fleetssd.adapters.daemon_http import deliveries_seen as ask  # noqa: PLC0415

    return ask(settings.web.host, settings.web.port)


def open_mirror(settings: Settings) -> Mirror:
    """Return the git mirrors in the data folder."""
    from fleetssd.adapters.git_mirror import GitMirror  # noqa: PLC0415

    return GitMirror(settings.data_dir / "mirrors", settings.forge)


def open_secrets(settings: Settings) -> Redact:
    """Return what takes secrets out of texts."""
    from fleetssd.adapters.secrets import DetectSecrets  # noqa: PLC0415

    return DetectSecrets(settings.records.secret_patterns)


def open_sketch() -> Sketch:
    """Return what finds near-duplicates without comparing everything with everything."""
    from fleetssd.adapters.minhash import buckets  # noqa: PLC0415

    return buckets


def open_memory(settings: Settings) -> RetainDb | None:
    """Return the memory server that is told of merged records; None where that is off."""
    if not settings.mirror.enabled:
        return None
    from fleetssd.adapters.retaindb import RetainDb  # noqa: PLC0415

    return RetainDb(settings.mirror)


def open_engine(settings: Settings) -> ServingEngine:
    """Return the engine that serves the fleet."""
    kind = settings.engine.kind
    return _open_ollama(settings) if kind == "ollama" else _open_shelf_engine(settings)


def _open_ollama(settings: Settings) -> OllamaEngine:
    from fleetssd.adapters.loopback_registry import serve_manifest  # noqa: PLC0415
    from fleetssd.adapters.ollama_engine import OllamaEngine  # noqa: PLC0415

    engine = settings.engine

    def serve(path: str, body: bytes, media_type: str) -> AbstractContextManager[str]:
        return serve_manifest(engine.registry_host, path, body, media_type)

    return OllamaEngine(
        engine.url,
        engine.base_model,
        serve,
        timeout=engine.timeout_seconds,
        concurrency=engine.concurrency,
        num_ctx=engine.num_ctx,
        folder=engine.models_dir,
    )


def _open_shelf_engine(settings: Settings) -> LlamaServerEngine | VllmEngine:
    """Open an engine that takes adapters from a folder."""
    from fleetssd.adapters.shelf_engines import LlamaServerEngine, Shelf, VllmEngine  # noqa: PLC0415
    from fleetssd.operations.learn import Base  # noqa: PLC0415

    engine, base = settings.engine, Base.named(settings)
    assert engine.adapters_dir is not None  # noqa: S101  the settings ask for it
    shelf = Shelf(engine.adapters_dir, numbered=engine.kind == "llama-server")
    names = (engine.url, engine.base_model, engine.alias, shelf)
    timeout, concurrency = engine.timeout_seconds, engine.concurrency
    if engine.kind == "vllm":
        return VllmEngine(*names, weights=base.weights, gguf=base.gguf, timeout=timeout, concurrency=concurrency)
    return LlamaServerEngine(*names, reload=engine.reload_command, timeout=timeout, concurrency=concurrency)


def open_sandbox(settings: Settings) -> Sandbox:
    """Return what model-written code runs in. Raises Misconfigured where the settings' kind cannot be had here."""
    from fleetssd.adapters import sandboxes  # noqa: PLC0415

    e = settings.evaluation
    limits = Limits(
        wall_seconds=e.wall_seconds,
        cpu_seconds=e.cpu_seconds,
        memory_bytes=e.memory_mb << 20,
        processes=e.processes,
        disk_bytes=e.disk_mb << 20,
    )
    if e.sandbox == "none":
        return sandboxes.BareSandbox(limits, workers=e.sandbox_workers)
    if e.sandbox == "bubblewrap":
        return sandboxes.BubblewrapSandbox(limits, workers=e.sandbox_workers)
    return sandboxes.ContainerSandbox(e.sandbox, e.sandbox_image, limits, workers=e.sandbox_workers)


def open_grounds(settings: Settings) -> Grounds:
    """Return the commits of held-out problems, checked out and prepared in the data folder.

    What was prepared in an image is of no use outside of it: every image has a folder of its own.
    """
    from fleetssd.adapters.git_mirror import GitMirror  # noqa: PLC0415
    from fleetssd.adapters.grounds import GroundFolder  # noqa: PLC0415

    e, mirror = settings.evaluation, GitMirror(settings.data_dir / "mirrors", settings.forge)
    folder = settings.data_dir / "grounds"
    if e.sandbox in ("podman", "docker"):
        folder = folder / "images" / hashlib.sha256(e.sandbox_image.encode()).hexdigest()[:16]
    return GroundFolder(folder, e.environments_mb << 20, mirror.check_out, mirror.gold, _open_preparer(settings))


def _open_preparer(settings: Settings) -> Preparer:
    from fleetssd.adapters import sandboxes  # noqa: PLC0415

    e = settings.evaluation
    if e.sandbox == "none":
        return sandboxes.NoPreparer()
    if e.sandbox == "bubblewrap":
        return sandboxes.BubblewrapPreparer(os.environ)
    return sandboxes.ContainerPreparer(e.sandbox, e.sandbox_image, os.environ)


@contextmanager
def open_workshop(settings: Settings, progress: Progress) -> Iterator[Workshop]:
    """Open everything that a night works with, and close it with the block."""
    from fleetssd.operations.night import Workshop  # noqa: PLC0415
    from fleetssd.operations.origins import find_origins  # noqa: PLC0415

    with ExitStack() as stack:
        store = open_store(settings)
        stack.callback(store.close)
        engine = open_engine(settings)
        stack.callback(engine.close)
        yield Workshop(
            settings=settings,
            store=store,
            engine=engine,
            sampler=lambda gguf: open_sampler(settings, gguf),
            sandbox=lambda: lent_sandbox(settings),
            grounds=open_grounds(settings),
            trainer=open_trainer(settings),
            builder=open_builder(settings),
            clock=open_clock(settings),
            folder=settings.data_dir / "nights",
            progress=progress,
            read_folders=read_folders,
            page=night_page,
            guards=open_guards(settings),
            harness=open_harness(settings),
            find_origins=lambda: find_origins(store, settings),
        )


def open_guards(settings: Settings) -> dict[str, tuple[Item, ...]]:
    """Return the guard sets that the settings name."""
    from fleetssd.adapters.guard_sets import read_guards  # noqa: PLC0415

    return read_guards(settings.guards.sets, settings.guards.files)


def read_guard_file(path: Path) -> tuple[Item, ...]:
    """Read one file of guard items."""
    from fleetssd.adapters.guard_sets import read_guard_file as read  # noqa: PLC0415

    return read(path)


def open_harness(settings: Settings) -> Harness | None:
    """Return the lm-evaluation-harness; None where no task of it is named."""
    guards = settings.guards
    if not guards.lm_eval_tasks:
        return None
    from fleetssd.adapters.lm_eval import LmEval  # noqa: PLC0415

    return LmEval(
        guards.lm_eval_command,
        settings.engine.url,
        guards.lm_eval_tasks,
        limit=guards.lm_eval_limit,
        concurrency=settings.engine.concurrency,
    )


def night_page(report: NightReport) -> str:
    """Return a night's report as one page that opens from a file."""
    from fleetssd.adapters.pages import night_page as page  # noqa: PLC0415

    return page(report)


def read_folders(folders: Sequence[Path]) -> Reading:
    """Read what may hold sampling settings below these folders."""
    from fleetssd.adapters.folders import read_folders as read  # noqa: PLC0415

    return read(folders)


def read_parameters(url: str) -> Reading:
    """Read the parameters of an Ollama server's models."""
    from fleetssd.adapters.ollama_engine.parameters import read_parameters as read  # noqa: PLC0415

    return read(url)


def open_sampler(settings: Settings, gguf: Path) -> AbstractContextManager[Sampler]:
    """Return what draws the training samples from the frozen base: a child of ours, or a server at an address."""
    from fleetssd.adapters import samplers  # noqa: PLC0415

    recipe, context = settings.recipe, _row_tokens(settings)
    if recipe.sampler == "ollama":
        return _engine_sampler(settings)
    if recipe.sampler == "vllm":
        assert recipe.sampler_url is not None  # noqa: S101  the settings ask for it
        return samplers.VllmSampler(recipe.sampler_url)
    if recipe.sampler in ("transformers", "unsloth"):
        from fleetssd.operations.learn import Base  # noqa: PLC0415

        weights = Base.named(settings).weights
        return samplers.TransformersSampler(
            weights,
            context=context,
            python=recipe.python,
            at_once=SAMPLER_SLOTS,
            threads=recipe.threads,
            unsloth=recipe.sampler == "unsloth",
        )
    return samplers.LlamaServerSampler(recipe.sampler_url or gguf, context=context, slots=SAMPLER_SLOTS)


@contextmanager
def _engine_sampler(settings: Settings) -> Iterator[Sampler]:
    """Open the engine, or the other Ollama that the settings name, as a sampler."""
    from fleetssd.operations.engine_sampler import EngineSampler  # noqa: PLC0415

    url = settings.recipe.sampler_url or settings.engine.url
    other = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": "ollama", "url": url})})
    engine = open_engine(other)
    try:
        with EngineSampler(engine, settings.engine.base_model) as sampler:
            yield sampler
    finally:
        engine.close()


def open_builder(settings: Settings) -> Builder:
    """Return what makes the files that are served."""
    from fleetssd.adapters.gguf_builder import GgufBuilder, llama_quantize  # noqa: PLC0415

    return GgufBuilder(settings.base.fallback_type, llama_quantize.find(settings.base.llama_quantize))


def night_environment() -> dict[str, str]:
    """Return a night's environment: its threads each multiply for themselves, so the library must not have its own."""
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}


def _row_tokens(settings: Settings) -> int:
    """Return the tokens of prompt and answer that a slot must hold; where rows set their length, a guess at prompts."""
    return settings.recipe.max_length or settings.recipe.max_tokens + PROMPT_TOKENS


def open_trainer(settings: Settings) -> Trainer:
    """Return the trainer, a process of its own without network, database or token."""
    from fleetssd.adapters.trainer_process import ProcessTrainer  # noqa: PLC0415

    return ProcessTrainer(settings.recipe.python or Path(sys.executable))


PROMPT_TOKENS = 2048
"""What a prompt may take of a slot's context where recipe.max_length is 0."""

SAMPLER_SLOTS = 16
"""Completions drawn at once; one thread serves them all."""


@dataclass(frozen=True, slots=True)
class DaemonParts:
    """What the daemon's jobs share. The sandbox is opened by the first watch: an idle daemon stays small."""

    store: SqlStore
    forge: Forge
    mirror: Mirror
    secrets: Redact
    engine: ServingEngine
    clock: Clock
    sandbox: Callable[[], Sandbox]
    grounds: Grounds
    app: Callable[[Callable[[], None]], Starlette]
    close: Callable[[], None]
    memory: Memory | None = None


def open_daemon(settings: Settings) -> DaemonParts:
    """Open everything that the daemon works with."""
    stack = ExitStack()
    store, clock, engine = open_store(settings), open_clock(settings), open_engine(settings)
    forge = open_forge(settings)
    stack.callback(store.close)
    stack.callback(forge.close)
    stack.callback(engine.close)
    memory = open_memory(settings)
    if memory is not None:
        stack.callback(memory.close)
    return DaemonParts(
        memory=memory,
        store=store,
        forge=forge,
        mirror=open_mirror(settings),
        secrets=open_secrets(settings),
        engine=engine,
        clock=clock,
        sandbox=_once(stack, lambda: open_sandbox(settings)),
        grounds=open_grounds(settings),
        app=lambda hint: _app(settings, store, clock, hint),
        close=stack.close,
    )


def _app(settings: Settings, store: SqlStore, clock: Clock, hint: Callable[[], None]) -> Starlette:
    from fleetssd.operations.report import read_report  # noqa: PLC0415
    from fleetssd.web.app import build_app  # noqa: PLC0415
    from fleetssd.web.webhook import routes  # noqa: PLC0415

    return build_app(
        lambda: read_report(settings, store, clock.now(), store.canary()), routes(settings, store, clock, hint)
    )


def open_gateway(settings: Settings) -> ASGIApp:
    """Return the pass-through in front of the engine, fed by the swap log.

    The store is opened by the first look at it: where it is down, requests for the alias still flow.
    """
    from fleetssd.routes import Route, Routing, fitted, routing  # noqa: PLC0415
    from fleetssd.web.feed import Feed  # noqa: PLC0415
    from fleetssd.web.gateway_app import build_gateway  # noqa: PLC0415
    from fleetssd.web.upstream import Upstream  # noqa: PLC0415

    alias, keys, held = settings.engine.alias, open_keys(settings), _held(settings)
    opened: list[SqlStore] = []

    def look() -> Routing:
        if not opened:
            opened.append(open_store(settings))
        found = routing(alias, opened[0].swaps(), opened[0].checkpoints(), opened[0].canary())
        return fitted(found, settings.engine.kind, settings.engine.base_model, held())

    feed = Feed(look, Routing(Route(alias, alias, None)), keys.read if keys else lambda: None)
    return build_gateway(feed, Upstream(settings.engine.url), open_recorder(settings), settings)


def _held(settings: Settings) -> Callable[[], Sequence[Applied]]:
    """Return what tells the adapters that a llama-server holds; for other engines there are none to tell."""
    if settings.engine.kind != "llama-server":
        return tuple
    engine = _open_shelf_engine(settings)
    return engine.held


def open_recorder(settings: Settings) -> Recorder | None:
    """Return what writes a row a call, with a connection of its own; None where telemetry is off.

    The store is opened by the first batch: where it is down, rows wait. Close it when the last answer has ended.
    """
    if not settings.telemetry.enabled:
        return None
    from fleetssd.web.recorder import Recorder  # noqa: PLC0415

    rules = settings.telemetry
    opened: list[SqlStore] = []

    def store() -> SqlStore:
        if not opened:
            opened.append(open_store(settings))
        return opened[0]

    return Recorder(store, batch=rules.batch, flush_seconds=rules.flush_ms / 1000, queue=rules.queue)


def open_keys(settings: Settings) -> KeyFile | None:
    """Return the file of the gateway's API keys; None where nobody needs one."""
    from fleetssd.adapters.key_file import KeyFile  # noqa: PLC0415

    return KeyFile(settings.gateway.keys_file) if settings.gateway.keys_file else None


def _once(stack: ExitStack, make: Callable[[], Sandbox]) -> Callable[[], Sandbox]:
    """Make a sandbox at the first call, return the same one after, and close it with the stack."""
    made: list[Sandbox] = []

    def get() -> Sandbox:
        if not made:
            made.append(make())
            stack.callback(made[0].close)
        return made[0]

    return get


@contextmanager
def lent_sandbox(settings: Settings) -> Iterator[Sandbox]:
    """Open the sandbox, and close it with the block."""
    sandbox = open_sandbox(settings)
    try:
        yield sandbox
    finally:
        sandbox.close()
