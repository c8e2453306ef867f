"""The few Protocols between the domain and the world; each has a real adapter and one contract suite."""

from __future__ import annotations

from fleetssd.ports.clock import Clock, Progress
from fleetssd.ports.engine import Completion, Engine, Places, Pointed, Prompt, Sampler
from fleetssd.ports.forge import Forge, Hooks, Issues, Memory, Mirror
from fleetssd.ports.store import Outbox, Store
from fleetssd.ports.traffic import CallLog, Desk, OriginLog, Sink, Traffic, TrialLog
from fleetssd.ports.work import Builder, Grade, Ground, Grounds, Harness, Job, Preparer, Sandbox, Trainer
from fleetssd.surroundings import ENVIRONMENT, WORK, Limits, Surroundings

__all__ = [
    "ENVIRONMENT",
    "WORK",
    "Builder",
    "CallLog",
    "Clock",
    "Completion",
    "Desk",
    "Engine",
    "Forge",
    "Grade",
    "Ground",
    "Grounds",
    "Harness",
    "Hooks",
    "Issues",
    "Job",
    "Limits",
    "Memory",
    "Mirror",
    "OriginLog",
    "Outbox",
    "Places",
    "Pointed",
    "Preparer",
    "Progress",
    "Prompt",
    "Sampler",
    "Sandbox",
    "Sink",
    "Store",
    "Surroundings",
    "Traffic",
    "Trainer",
    "TrialLog",
]
