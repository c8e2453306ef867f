"""Everything that a night works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fleetssd.config import Settings
from fleetssd.ports import Progress
from fleetssd.wiring.audit import read_folders
from fleetssd.wiring.engine import open_engine
from fleetssd.wiring.examining import lent_sandbox, open_grounds, open_guards, open_harness
from fleetssd.wiring.learning import open_builder, open_sampler, open_trainer
from fleetssd.wiring.process import open_clock, open_store

if TYPE_CHECKING:
    from fleetssd.night_report import NightReport
    from fleetssd.operations.night import Workshop


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


def night_page(report: NightReport) -> str:
    """Return a night's report as one page that opens from a file."""
    from fleetssd.adapters.pages import night_page as page  # noqa: PLC0415

    return page(report)
