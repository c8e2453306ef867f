"""The daemon: polls, takes webhooks, keeps the clock, flips at dawn and watches; it never imports torch."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

if __name__ == "__main__":
    # httpx's command line and structlog load rich and pygments where they find them: a tenth of this process, for a
    # terminal that it does not have.
    for module in ("rich", "httpx._main"):
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]

import structlog
import uvicorn
from apscheduler.schedulers.background import BackgroundScheduler

from fleetssd import wiring
from fleetssd.adapters.systemd import notify, watchdog_pause
from fleetssd.checkpoints import Night
from fleetssd.config import Settings, load
from fleetssd.errors import FleetError
from fleetssd.facts import leaves_machine, warning
from fleetssd.operations import canary, ingest, keep, origins, remember, retention, swap, traffic, watch
from fleetssd.operations.freeze import base_checkpoint
from fleetssd.rollout import watched
from fleetssd.schedule import dawn_due, night_due
from fleetssd.serving import pending
from fleetssd.trials import held_back

log = structlog.get_logger()

SWITCH_SECONDS = 0.001
"""How long a thread waits before it asks for the interpreter (5 ms by default): a webhook's answer changes threads five
times, beside a poll or other deliveries."""
AGAIN = timedelta(seconds=1)
"""How long after a poll the one runs that a webhook asked for meanwhile."""
KEEP_SECONDS = 2.0
"""How long a llama-server that restarted serves the base instead of the checkpoint."""
PRUNE_SECONDS = 3600.0
"""Between two looks for calls that are too old to keep."""
RETRY = timedelta(minutes=1)
"""How long a night that asked to be tried again (exit 75) waits."""


class Daemon:
    """The jobs and what they share; each job is one transaction-sized step that a restart repeats harmlessly."""

    def __init__(self, settings: Settings, config: Path) -> None:
        self.settings, self.config = settings, config
        self.parts = wiring.open_daemon(settings)
        self.night: subprocess.Popen[bytes] | None = None
        self.retry_at = self.parts.clock.now()
        self.swept = (0, 0)
        self.leaving, self.polling, self.hinted = threading.Event(), threading.Event(), threading.Event()
        self.scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1})

    def start(self) -> None:
        """Finish what a crash left half done, then start the clock."""
        self._job(self._recover)
        for job, seconds in (
            (self._poll, self.settings.forge.poll_seconds),
            (self._tick, self.settings.schedule.tick_seconds),
            (self._know_base, self.settings.schedule.tick_seconds),
            (self._watch, self.settings.watch.every_seconds),
            (self._canary, self.settings.canary.every_seconds),
            (self._prune, PRUNE_SECONDS),
            *([(self._keep, KEEP_SECONDS)] if self.settings.engine.kind == "llama-server" else []),
            *([(self._remember, self.settings.mirror.every_seconds)] if self.parts.memory else []),
        ):
            self.scheduler.add_job(
                lambda job=job: self._job(job), "interval", seconds=seconds, id=job.__name__, next_run_time=_now()
            )
        if self.parts.memory and leaves_machine(self.settings.mirror.url):
            log.warning("mirror_leaves_this_machine", warning=warning(self.settings.mirror.url))
        self.scheduler.start()
        log.info("daemon_started", forge=self.settings.forge.url, engine=self.settings.engine.url)

    def stop(self) -> None:
        """Stop the clock, let the night close its stage, and leave."""
        self.leaving.set()
        self.scheduler.shutdown(wait=True)
        if self.night is not None and self.night.poll() is None:
            self.night.send_signal(signal.SIGTERM)
            self.night.wait(timeout=150)
        self.parts.close()
        log.info("daemon_stopped")

    def hint(self) -> None:
        """Poll now, or right after the poll that is running: a webhook said that something happened."""
        self.hinted.set()
        if not self.polling.is_set():
            self.scheduler.modify_job("_poll", next_run_time=_now())

    def _job(self, job: Callable[[], None]) -> None:
        """Run a job; a failure is one line in the log, never the end of the daemon."""
        try:
            job()
        except FleetError as error:
            log.warning("job_failed", job=job.__name__, error=error.message, hint=error.hint)
        except Exception:
            log.exception("job_crashed", job=job.__name__)

    def _poll(self) -> None:
        self.polling.set()
        self.hinted.clear()
        try:
            self._poll_once()
        finally:
            self.polling.clear()
            if self.hinted.is_set() and not self.leaving.is_set():
                # Not at once: the scheduler skips a job whose last run has not quite ended.
                self.scheduler.modify_job("_poll", next_run_time=_now() + AGAIN)

    def _poll_once(self) -> None:
        p = self.parts
        try:
            summary = ingest.poll_once(
                self.settings, p.forge, p.mirror, p.store, p.secrets, p.clock.now(), lambda *_: None,
                wiring.open_sketch(),
            )  # fmt: skip
            log.info("polled", **summary.as_dict())
        finally:  # what is on file is there whether the forge is or not
            if found := origins.find_origins(p.store, self.settings, lambda: not self.leaving.is_set()):
                log.info("origins_found", records=found)

    def _remember(self) -> None:
        """Tell the memory server of what was merged; it has a thread of its own, so nothing waits for it."""
        p = self.parts
        assert p.memory is not None  # noqa: S101  the job is added where there is one
        project, staying = self.settings.mirror.project, lambda: not self.leaving.is_set()
        summary = remember.remember(p.store, p.memory, project, p.clock.now(), staying)
        if any(summary.as_dict().values()):
            log.info("remembered", **summary.as_dict())

    def _recover(self) -> None:
        swap.recover(self.parts.store, self.parts.engine, self.settings, self.parts.clock.now())

    def _keep(self) -> None:
        keep.keep(self.parts.store, self.parts.engine, self.settings, self.parts.clock.now())

    def _know_base(self) -> None:
        """Put the base on file as soon as the engine shows it: what serves has an answer before the first night."""
        p = self.parts
        if not p.store.checkpoints():
            p.store.put_checkpoint(base_checkpoint(self.settings, p.engine, p.clock.now()))

    def _tick(self) -> None:
        self._reap()
        if not self.settings.schedule.enabled:
            return
        now, nights = self.parts.clock.now(), self.parts.store.nights()
        running = any(night.state == "running" for night in nights)
        last = nights[-1].started_at if nights else None
        if self.night is None and (running or night_due(now, self.settings.schedule, last)) and now >= self.retry_at:
            self._start_night()
        elif not running and dawn_due(now, self.settings.schedule, last):
            self._dawn()
        elif not running:
            self._sweep(nights)

    def _sweep(self, nights: Sequence[Night]) -> None:
        """Give the engine its room back, once after each night and each move of the alias."""
        swaps = self.parts.store.swaps()
        stamp = (nights[-1].number if nights else 0, swaps[-1].id if swaps else 0)
        if stamp != self.swept:
            tried = self.parts.store.canary()
            needed = [tried.digest] if tried else []
            retention.sweep(self.parts.store, self.parts.engine, self.settings, self.parts.clock.now(), needed)
            self.swept = stamp

    def _start_night(self) -> None:
        folder = self.settings.data_dir / "nights"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "night.log").open("ab") as out:
            command = [sys.executable, "-P", "-m", "services.night", "--config", str(self.config)]
            self.night = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=wiring.night_environment()
            )
        log.info("night_started", pid=self.night.pid)

    def _reap(self) -> None:
        if self.night is None or self.night.poll() is None:
            return
        code, self.night = self.night.returncode, None
        # 75 asks for another try; so does death by a signal: the stages that are done stay done.
        self.retry_at = self.parts.clock.now() + (RETRY if code in (75, 78) else timedelta(0))
        log.info("night_ended", exit_code=code)

    def _dawn(self) -> None:
        p = self.parts
        promoted = pending(p.store.nights(), p.store.swaps(), p.store.checkpoints())
        if promoted is not None and not held_back(p.store.trials(), promoted.digest):
            swap.flip(p.store, p.engine, self.settings, promoted, actor="dawn", now=p.clock.now())

    def _watch(self) -> None:
        p = self.parts
        if watched(p.store.swaps()) is not None:
            watch.watch_once(p.store, p.engine, p.sandbox(), p.grounds, self.settings, p.clock.now())

    def _canary(self) -> None:
        p = self.parts
        if p.store.canary() is not None:
            canary.analyse(p.store, p.engine, self.settings, p.clock.now())

    def _prune(self) -> None:
        if gone := traffic.prune(self.parts.store, self.settings, self.parts.clock.now()):
            log.info("calls_pruned", calls=gone)


def _now() -> datetime:
    """Return the machine's time, which is what APScheduler waits by; what is due is asked of the fleet's clock."""
    return datetime.now(UTC)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit codes are 0 done, 75 try again, 78 misconfigured."""
    args = _parser().parse_args(argv)
    wiring.configure_logging()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        settings = load(args.config)
        listener = wiring.listen(settings.web.host, settings.web.port, "web")
        daemon = Daemon(settings, args.config)
        daemon.start()
    except FleetError as error:
        log.error("daemon_refused", error=error.message, hint=error.hint)
        return error.exit_code
    server = uvicorn.Server(
        uvicorn.Config(
            daemon.parts.app(daemon.hint),
            log_config=None,
            loop="asyncio",  # its own loops wait in threads; another event loop would be 4 MB for nothing
            access_log=False,
            lifespan="off",
        )
    )
    heart = threading.Thread(target=_heartbeat, args=(server,), daemon=True)
    heart.start()
    # uvicorn raises the signal again when it is done; unheeded, it would end us before the night is told.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    try:
        server.run(sockets=[listener])  # returns on SIGTERM and SIGINT
    finally:
        daemon.stop()
    return 0


def _heartbeat(server: uvicorn.Server) -> None:
    """Tell systemd that we are ready, then that we are alive, at half of the watchdog's period."""
    pause = threading.Event()
    while not server.started:
        pause.wait(0.1)
    notify("READY=1")
    period = watchdog_pause()
    while period and not pause.wait(period):
        notify("WATCHDOG=1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.daemon", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings file (TOML)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
