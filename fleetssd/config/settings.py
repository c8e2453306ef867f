"""All the tables together, and what one asks of another."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from fleetssd.config.intake import Buffer, Fleet, Forge, Mirror, Records
from fleetssd.config.judging import Evaluation, Gate, Guards
from fleetssd.config.learning import Base, Recipe
from fleetssd.config.running import Prices, Schedule, Web
from fleetssd.config.section import Section
from fleetssd.config.serving import Canary, Decode, Engine, Gateway, Telemetry, Watch


class Settings(Section):
    """Everything an operator can set."""

    data_dir: Path
    database_url: str | None = None
    forge: Forge
    fleet: Fleet
    records: Records = Records()
    buffer: Buffer = Buffer()
    engine: Engine = Engine()
    base: Base = Base()
    recipe: Recipe = Recipe()
    decode: Decode = Decode()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    guards: Guards = Guards()
    prices: Prices = Prices()
    schedule: Schedule = Schedule()
    watch: Watch = Watch()
    web: Web = Web()
    mirror: Mirror = Mirror()
    gateway: Gateway = Gateway()
    telemetry: Telemetry = Telemetry()
    canary: Canary = Canary()

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        kind = self.engine.kind
        if kind == "ollama":
            return self
        if self.decode.manage == "bake":
            raise ValueError(
                f'decode.manage = "bake" needs a base of its own, which engine.kind = "{kind}" cannot take'
            )
        if self.recipe.sampler == "ollama" and self.recipe.sampler_url is None:
            raise ValueError('recipe.sampler = "ollama" needs sampler_url where the engine is none')
        if kind == "llama-server" and self.guards.lm_eval_tasks:
            raise ValueError('guards.lm_eval_tasks ask models by name, which engine.kind = "llama-server" ignores')
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL: `database_url`, else a SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'fleetssd.sqlite3'}"
