"""The composition root: settings in, adapters out. Nothing else reads the environment or builds a client.

Imports stand inside the functions: a process loads only the dependencies of the parts that it opens.
"""

from __future__ import annotations

from fleetssd.wiring.audit import read_folders, read_parameters
from fleetssd.wiring.daemon import DaemonParts, open_daemon
from fleetssd.wiring.engine import open_engine
from fleetssd.wiring.examining import (
    lent_sandbox,
    open_grounds,
    open_guards,
    open_harness,
    open_sandbox,
    read_guard_file,
)
from fleetssd.wiring.forge import (
    deliveries_seen,
    open_forge,
    open_hooks,
    open_issues,
    open_memory,
    open_mirror,
    open_secrets,
    open_sketch,
    read_webhook_secret,
)
from fleetssd.wiring.gateway import open_gateway, open_keys, open_recorder
from fleetssd.wiring.learning import open_builder, open_sampler, open_trainer
from fleetssd.wiring.night import night_page, open_workshop
from fleetssd.wiring.process import (
    configure_logging,
    configure_talking,
    listen,
    night_environment,
    open_clock,
    open_store,
)

__all__ = [
    "DaemonParts",
    "configure_logging",
    "configure_talking",
    "deliveries_seen",
    "lent_sandbox",
    "listen",
    "night_environment",
    "night_page",
    "open_builder",
    "open_clock",
    "open_daemon",
    "open_engine",
    "open_forge",
    "open_gateway",
    "open_grounds",
    "open_guards",
    "open_harness",
    "open_hooks",
    "open_issues",
    "open_keys",
    "open_memory",
    "open_mirror",
    "open_recorder",
    "open_sampler",
    "open_sandbox",
    "open_secrets",
    "open_sketch",
    "open_store",
    "open_trainer",
    "open_workshop",
    "read_folders",
    "read_guard_file",
    "read_parameters",
    "read_webhook_secret",
]
