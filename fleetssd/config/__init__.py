"""Frozen settings, parsed totally and early; an unknown key names its nearest neighbour.

`parse` is pure; `load` reads the file and is the only I/O here. Secrets are named by file, never by value.
"""

from __future__ import annotations

from fleetssd.config.intake import Buffer, Fleet, Forge, Mirror, Records
from fleetssd.config.judging import CheckedRepository, Checking, Evaluation, Gate, Guards, GuardSet
from fleetssd.config.learning import Base, Recipe
from fleetssd.config.reading import load, parse
from fleetssd.config.running import Prices, Schedule, Web
from fleetssd.config.section import Section
from fleetssd.config.serving import Canary, Decode, Engine, EngineKind, Gateway, Telemetry, Watch
from fleetssd.config.settings import Settings

__all__ = [
    "Base",
    "Buffer",
    "Canary",
    "CheckedRepository",
    "Checking",
    "Decode",
    "Engine",
    "EngineKind",
    "Evaluation",
    "Fleet",
    "Forge",
    "Gate",
    "Gateway",
    "GuardSet",
    "Guards",
    "Mirror",
    "Prices",
    "Recipe",
    "Records",
    "Schedule",
    "Section",
    "Settings",
    "Telemetry",
    "Watch",
    "Web",
    "load",
    "parse",
]
