"""The demo's world: a folder, a settings file, a steered clock, a forge with a fleet, an engine with a base."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from fleetssd import files
from fleetssd.adapters.clock import SteeredClock
from fleetssd.adapters.store import SqlStore
from fleetssd.errors import Transient

BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"

NIGHT_1: dict[str, dict[str, Any]] = {
    "engine": {"road": "adapter-registry"},
    "recipe": {
        "arm": "ssd", "prompts": 300, "t_train": 0.5, "top_k": 10, "top_p": 0.95,
        "learning_rate": 5e-3, "epochs": 5,
    },
    "decode": {"manage": "none"},
}  # fmt: skip
NIGHT_2: dict[str, dict[str, Any]] = {
    "engine": {"road": "merged-create"},
    "recipe": {"arm": "merged", "prompts": 600, "learning_rate": 5e-3, "epochs": 10},
    "decode": {"manage": "bake"},
}
NIGHT_3: dict[str, dict[str, Any]] = {
    "engine": {"road": "merged-create"},
    "recipe": {"arm": "merged", "prompts": 60, "learning_rate": 1e-2, "epochs": 60},
    "decode": {"manage": "bake"},
}


@dataclass
class World:
    """Where everything of the demo lies; `base` survives from run to run, the rest is made anew."""

    root: Path
    seed: int
    forge_url: str = ""
    forge_token: Path = Path()
    engine_url: str = ""
    web_port: int = 0
    offset: timedelta = field(default_factory=timedelta)

    @property
    def base(self) -> Path:
        """The cached base model."""
        return self.root / "base"

    @property
    def data(self) -> Path:
        """The product's data folder."""
        return self.root / "data"

    @property
    def config(self) -> Path:
        """The settings file that the daemon runs with."""
        return self.root / "config.toml"

    @property
    def logs(self) -> Path:
        """What the processes wrote."""
        return self.root / "logs"

    @property
    def secret_file(self) -> Path:
        """The webhook's shared secret."""
        return self.root / "webhook-secret"

    def prepare(self) -> None:
        """Clear what an earlier run left, but for the base."""
        for name in ("data", "forge", "ollama", "logs", "clones"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for folder in (self.root, self.logs, self.data):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("report.html", "summary.json", "clock"):
            (self.root / name).unlink(missing_ok=True)
        self.secret_file.touch(mode=0o600)
        self.secret_file.write_text(secrets.token_hex(16))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.web_port = probe.getsockname()[1]
        self.set_clock(self.now())

    def write_config(self, night: dict[str, dict[str, Any]]) -> None:
        """Write the settings of one night; the daemon's night reads them when it starts."""
        tables = _merge(self._settings(), night)
        lines = [f"data_dir = {_toml(str(self.data))}"]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        files.write(self.config, "\n".join(lines) + "\n")

    def store(self) -> SqlStore:
        """Open the product's database to read it."""
        return SqlStore.open(f"sqlite:///{self.data / 'fleetssd.sqlite3'}")

    def now(self) -> datetime:
        """Return the demo's time."""
        return datetime.now(UTC) + self.offset

    def set_clock(self, now: datetime) -> None:
        """Move the daemon's clock; it only ever goes forward."""
        self.offset = max(self.offset, now - datetime.now(UTC))
        SteeredClock(self.root / "clock").steer(self.offset.total_seconds())

    def advance_to(self, hour: int) -> datetime:
        """Move the clock to the next time that it is `hour` o'clock (UTC), and return it."""
        now = self.now()
        target = now.replace(hour=hour, minute=0, second=1, microsecond=0)
        self.set_clock(target if target > now else target + timedelta(days=1))
        return self.now()

    def serve_base(self) -> None:
        """Create the base model in the engine from its GGUF, and point the fleet's alias to it."""
        blob = self.base / "base-q8_0.gguf"
        digest = json.loads((self.base / "base.json").read_text())["files"][blob.name]
        with httpx.Client(base_url=self.engine_url, timeout=60.0) as engine:
            _ok(engine.post(f"/api/blobs/sha256:{digest}", content=blob.read_bytes()))
            files = {"base.gguf": f"sha256:{digest}"}
            create = {"model": BASE, "files": files, "parameters": {"num_ctx": 320}, "stream": False}
            _ok(engine.post("/api/create", json=create))
            _ok(engine.post("/api/copy", json={"source": BASE, "destination": ALIAS}))

    def served_digest(self) -> str:
        """Return the engine's digest of what the fleet's alias serves now."""
        models = _ok(httpx.get(f"{self.engine_url}/api/tags", timeout=30.0)).json()["models"]
        return next((model["digest"] for model in models if model["name"] == ALIAS), "")

    def ask(self, prompt: str, model: str = ALIAS) -> str:
        """Ask the fleet's alias as an agent does: `/v1`, no sampling parameter but the seed."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 96, "seed": self.seed}
        reply = _ok(httpx.post(f"{self.engine_url}/v1/chat/completions", json=body, timeout=60.0)).json()
        return str(reply["choices"][0]["message"]["content"])

    def garble(self, model: str) -> None:
        """Switch the engine's fault on for one checkpoint, or off with an empty name."""
        _ok(httpx.post(f"{self.engine_url}/embedded/faults", json={"garble": model or None}, timeout=30.0))

    def _settings(self) -> dict[str, dict[str, Any]]:
        return {
            "forge": {
                "url": self.forge_url, "token_file": str(self.forge_token),
                "webhook_secret_file": str(self.secret_file), "poll_seconds": 2.0, "overlap_seconds": 10.0,
            },
            "fleet": {"agents": ["agent-1", "agent-2"], "repositories": ["fleet/*"]},
            "records": {"held_out_share": 0.25, "prompt_template": "{body}", "solution_format": "code"},
            "buffer": {"size": 600, "per_repository": 600},
            "engine": {"url": self.engine_url, "base_model": BASE, "alias": ALIAS, "concurrency": 24},
            "base": {"weights": str(self.base / "hf"), "gguf": str(self.base / "base-q8_0.gguf")},
            "recipe": {
                "rank": 16, "alpha": 32.0, "batch": 32, "micro_batch": 32, "warmup_steps": 2, "rate_floor": 0.0,
                "max_length": 256, "max_tokens": 96, "seed": self.seed + 1, "backend": "trl", "device": "cpu",
            },
            "decode": {"tau_grid": [0.2, 0.4, 0.7]},
            "evaluation": {"samples": 16, "tune_share": 0.15, "max_tokens": 96, "max_problems": 160,
                "teacher_decode": False, "wall_seconds": 2.0, "cpu_seconds": 2},
            "guards": {"sets": []},  # this base knows Python and nothing else
            "schedule": {"tick_seconds": 0.5, "clock_offset_file": str(self.root / "clock")},
            "watch": {"every_seconds": 2.0, "minutes": 60.0, "probes": 48, "min_calls": 40},
            "web": {"port": self.web_port},
        }  # fmt: skip


def _merge(left: dict[str, dict[str, Any]], right: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**left.get(name, {}), **right.get(name, {})} for name in {**left, **right}}


def _toml(value: object) -> str:
    """Write a string, number or list of them as TOML (which shares JSON's syntax for these)."""
    return json.dumps(value)


def _ok(response: httpx.Response) -> httpx.Response:
    if response.status_code >= 400:
        raise Transient(
            f"the engine answered {response.status_code}: {response.text[:200]}", hint="Read the demo's logs."
        )
    return response
