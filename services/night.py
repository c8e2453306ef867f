"""Run one night to its verdict, or continue the one that was interrupted; it never changes what is served."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import structlog

from fleetssd import wiring
from fleetssd.config import Settings, load
from fleetssd.errors import FleetError, Misconfigured, Transient
from fleetssd.operations.night import Workshop, run_night, tonight

log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the night; exit codes are 0 done, 75 try again (nothing is lost), 78 misconfigured, 1 failed for good."""
    args = _parser().parse_args(argv)
    wiring.configure_logging()
    signal.signal(signal.SIGTERM, _stop)
    try:
        settings = load(args.config)
        with _alone(settings.data_dir / "night.lock"):
            return _run(settings)
    except FleetError as error:
        log.error("night_stopped", error=error.message, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Asked:
        log.info("night_stopped", error="asked to stop", hint="The next start continues this night.")
        return Transient.exit_code


class Asked(BaseException):
    """SIGTERM came. No error of ours: what tries again after those must not try again after this."""


def _run(settings: Settings) -> int:
    with wiring.open_workshop(settings, _report) as shop:
        night = tonight(shop)
        try:
            decided = run_night(shop, night)
        except Transient:
            raise
        except Misconfigured:
            raise  # a person mends the setting and the same night goes on
        except FleetError as error:
            _fail(shop, night.number, error)
            raise
    verdict = decided.verdict
    assert verdict is not None  # noqa: S101  run_night returns decided nights only
    _emit({"event": "verdict", "night": decided.number, "verdict": verdict.kind, "reason": verdict.reason})
    return 0


def _fail(shop: Workshop, number: int, error: FleetError) -> None:
    shop.store.fail_night(number, f"{type(error).__name__}: {error.message}", shop.clock.now())


def _report(done: int, total: int, what: str) -> None:
    _emit({"event": "progress", "done": done, "total": total, "what": what})


def _emit(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Leave by exception, so that children are ended and the open stage stays open."""
    raise Asked


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the lock file: one night at a time, released by the kernel however the process ends.

    Raises Transient where another holds it, and Misconfigured where it cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("w")
    except OSError as error:
        hint = "Set data_dir to a folder we may write."
        raise Misconfigured(f"cannot write {lock}: {error.strerror}", hint=hint) from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Transient("another night is running", hint="Wait for it: `fleetssd nights`.") from None
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.night", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings file (TOML)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
