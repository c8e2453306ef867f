"""A webhook's hint to the daemon: the next poll is now, also where one is running already."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fleetssd.config import load
from fleetssd.errors import Transient
from services.daemon import Daemon

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def daemon(folder: Path) -> Daemon:
    """Make a daemon whose forge is away and whose next poll is far off; its clock is not started."""
    (folder / "token").write_text("t" * 40)
    path = folder / "config.toml"
    path.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:9"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["fleet/*"]\n'
    )
    made = Daemon(load(path), path)
    made.scheduler.add_job(lambda: None, "interval", days=1, id="_poll", next_run_time=FAR)
    return made


def due(made: Daemon) -> datetime:
    """Return when the next poll is."""
    moment: datetime = made.scheduler.get_job("_poll").next_run_time
    return moment


def test_a_hint_polls_now(tmp_path: Path) -> None:
    """Where no poll runs the next one is now."""
    made = daemon(tmp_path)
    made.hint()
    assert due(made) <= datetime.now(UTC)
    made.parts.close()


def test_a_hint_during_a_poll_is_not_lost(tmp_path: Path) -> None:
    """A delivery that comes while a poll is running may have come too late for it: another follows at once."""
    made = daemon(tmp_path)

    def poll() -> None:
        with suppress(Transient):
            made._poll()

    running = threading.Thread(target=poll)
    running.start()
    while not made.polling.is_set():
        time.sleep(0.001)
    time.sleep(0.05)  # past the first lines of the poll, well before its last try of a forge that is away
    made.hint()
    assert due(made) == FAR
    running.join(60)
    assert due(made) <= datetime.now(UTC) + timedelta(seconds=2)
    made.parts.close()


def test_a_poll_without_hints_asks_for_no_other(tmp_path: Path) -> None:
    """The next poll is the scheduled one."""
    made = daemon(tmp_path)
    with suppress(Transient):
        made._poll()
    assert due(made) == FAR
    made.parts.close()
