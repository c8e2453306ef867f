"""The verb `report`: read the store once and say how things stand."""

from __future__ import annotations

from datetime import datetime

from fleetssd.canary import Canary
from fleetssd.config import Settings
from fleetssd.ports import Store
from fleetssd.schedule import next_times
from fleetssd.status import Report, build_status, night_table, swap_table


def read_report(settings: Settings, store: Store, now: datetime, canary: Canary | None = None) -> Report:
    """Return the status, a canary's with it, and the tables of nights and swaps. Raises what the store raises."""
    nights, swaps = store.nights(), store.swaps()
    status = build_status(
        now=now,
        nights=nights,
        swaps=swaps,
        checkpoints=store.checkpoints(),
        records=store.record_groups(),
        cursor=store.cursor(settings.forge.url),
        watch_minutes=settings.watch.minutes,
        upcoming=next_times(now, settings.schedule),
        sandbox=settings.evaluation.sandbox,
        canary=canary,
    )
    return Report(status, night_table(nights), swap_table(swaps))
