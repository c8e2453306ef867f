"""A night's report over a real database: its files, its page, and that it never costs a night."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.pages import drawings
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Night
from fleetssd.cli.app import main
from fleetssd.config import Gate
from fleetssd.errors import Rejected
from fleetssd.gate import decide
from fleetssd.gitea import PullKey
from fleetssd.night_report import Answered, NightReport, compose
from fleetssd.operations.evaluate import PROBED
from fleetssd.operations.night import run_night, tonight
from fleetssd.operations.publish import publish, read_night
from fleetssd.wiring import night_page
from tests.services.test_night import BASE_NAME, GGUF, JUDGED, START, TRAINED, Scene, answer, record
from tests.unit.test_gate import evidence, guard


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and every id."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember addresses that are not of this page, scripts, handlers and ids."""
        named = {name: value or "" for name, value in attrs}
        self.ids += [named["id"]] if "id" in named else []
        links = [named[name] for name in ("src", "href", "xlink:href", "srcset", "data", "action") if name in named]
        self.fetched += [link for link in links if not link.startswith("#")]
        self.fetched += [tag] if tag in ("script", "link", "iframe", "object") else []
        self.fetched += [name for name in named if name.startswith("on")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open a database in the data folder."""
    (tmp_path / "data").mkdir(mode=0o700)
    store = SqlStore.open(f"sqlite:///{tmp_path / 'data' / 'fleetssd.sqlite3'}")
    yield store
    store.close()


@pytest.fixture
def play(tmp_path: Path, store: SqlStore) -> Callable[..., Night]:
    """Return what plays one night over the database, with a page and changed settings."""
    held: Any = store
    scene = Scene(tmp_path, store=held)
    base = tmp_path / "data" / "base"
    (base / "hf").mkdir(parents=True)
    (base / "hf" / "model.safetensors").write_bytes(b"weights")
    (base / "base.gguf").write_bytes(GGUF)
    scene.engine.models[BASE_NAME] = scene.engine.models["fleet-coder:latest"] = ("served-base", _sha(GGUF), None)
    scene.engine.answer = answer
    for number in range(TRAINED + JUDGED):
        found = record(number, "train" if number < TRAINED else "held_out")
        found = replace(found, repository="fleet/<b>app</b>")
        store.put_pulls([(PullKey("http://forge", 1, number), "t", found)], START)
        store.settle([found], START)

    def run(page: Callable[[NightReport], str] | None = night_page, **tables: dict[str, Any]) -> Night:
        shop = replace(scene.shop(**tables), page=page)
        return run_night(shop, tonight(shop))

    return run


def _sha(content: bytes) -> str:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(content).hexdigest()


def test_a_night_leaves_its_report(tmp_path: Path, play: Callable[..., Night]) -> None:
    """The night's folder has the page, its Markdown twin and the same numbers as JSON, and no half file."""
    night = play()
    folder = tmp_path / "data" / "nights" / "0001"
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert night.verdict is not None
    assert told["verdict"] == night.verdict.kind
    assert night.verdict.reason in told["sentence"]
    assert (folder / "report.md").read_text(encoding="utf-8").startswith("# Night 1, arm ssd\n")
    assert not list(folder.glob(".report*.partial"))


def test_the_page_opens_without_a_network(tmp_path: Path, play: Callable[..., Night]) -> None:
    """The page loads, runs and addresses nothing outside of itself, and no id stands twice."""
    play()
    page = Page()
    page.feed(html := (tmp_path / "data" / "nights" / "0001" / "report.html").read_text(encoding="utf-8"))
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids)) > 0
    assert not re.search(r"url\((?!#)|@import", html)
    assert html.count("<svg") == 7
    assert "prefers-color-scheme: dark" in html


def test_every_reference_in_a_drawing_has_its_target(tmp_path: Path, play: Callable[..., Night]) -> None:
    """What a drawing refers to stands in the same page."""
    play()
    html = (tmp_path / "data" / "nights" / "0001" / "report.html").read_text(encoding="utf-8")
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert wanted
    assert {one or other for one, other in wanted} <= set(re.findall(r'\bid="([^"]+)"', html))


def test_many_nights_stay_readable() -> None:
    """Of forty nights the newest thirty are drawn; in the plane the best, tonight and the bases have names."""
    share = {"point": 0.5, "low": 0.4, "high": 0.6}
    nights = [
        {"number": n, "arm": "ssd", "verdict": "keep", "pass_1": dict.fromkeys(drawings.COLOURS, share)}
        for n in range(1, 41)
    ]
    many, few = (str(drawings.by_night(some)) for some in (nights, nights[:2]))
    assert ("ssd: keep" in few, "ssd: keep" in many) == (True, False)
    assert many.count("<use") == str(drawings.by_night(nights[10:])).count("<use")
    points = [{"name": f"night {n}", "hours": float(n), "gain": share, "front": n == 3} for n in range(1, 38)]
    ends = [{"name": name, "hours": 0.0, "gain": share, "front": False} for name in ("base", "tonight", "tuned base")]
    plane = str(drawings.pareto([ends[0], *points, *ends[1:]]))
    assert [name for name in ("base", "night 3", "night 4", "tonight", "tuned base") if f">{name}<" in plane] == [
        "base", "night 3", "tonight", "tuned base",
    ]  # fmt: skip


def test_foreign_text_is_escaped(tmp_path: Path, play: Callable[..., Night]) -> None:
    """A repository named with markup is shown as text in page and Markdown."""
    play()
    folder = tmp_path / "data" / "nights" / "0001"
    html, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<b>app" not in html
    assert "&lt;b&gt;app" in html
    assert "<b>" not in text


def test_a_drawing_that_fails_costs_no_night(tmp_path: Path, play: Callable[..., Night]) -> None:
    """Where the page cannot be drawn the night is decided all the same, and its numbers are on disk."""

    def broken(_report: NightReport) -> str:
        raise RuntimeError("no font")

    assert play(broken).state == "done"
    assert {path.name for path in (tmp_path / "data" / "nights" / "0001").glob("report*")} == {
        "report.json",
        "report.md",
    }


def test_a_folder_that_cannot_be_written_costs_no_night(tmp_path: Path, play: Callable[..., Night]) -> None:
    """Where no file can be written the night is decided all the same."""
    (tmp_path / "data" / "nights" / "0001" / ".report.json.partial").mkdir(parents=True)
    assert play().state == "done"


def test_a_baked_night_compares_at_one_effective_temperature(play: Callable[..., Night], store: SqlStore) -> None:
    """The distributions of a baked candidate are those of the answers asked at the base's effective temperature."""
    play(decode={"manage": "bake", "tau_grid": [0.5]})
    told = read_night(store, 1)
    probed = store.answers(1, PROBED)
    assert probed
    assert told.lengths is not None
    assert told.lengths["edges"][-1] >= max(len(answer.completion) for answer in probed)
    assert any("baked" in note for note in told.notes)


def test_the_page_shows_guards_and_the_teachers_decode(play: Callable[..., Night]) -> None:
    """Every guard set is a row with its items, its change and what became of it; the gain over the teacher stands."""
    night = play()
    assert night.verdict is not None
    told = asdict(decide(evidence(teacher=evidence().base, guards=(guard(3), guard(0))), Gate()))
    numbers = {**night.verdict.evidence, **told}
    page = night_page(compose(replace(night, verdict=replace(night.verdict, evidence=numbers)), [night], Answered()))
    (table,) = re.findall(r"<h2>Guard tasks</h2>.*?</table>", page, re.DOTALL)
    assert table.count("<td>shell</td><td>60</td>") == 2
    assert 'class="yes">holds within 10 pp' in table
    assert 'class="no">DROPPED by more than 10 pp' in table
    assert "Over the base at the teacher's decode:" in page


def test_a_failed_night_has_a_page_too(tmp_path: Path, store: SqlStore) -> None:
    """A night that failed before it was planned whole is reported with its reason."""
    store.open_night({"night": 1}, "ssd", START)
    store.fail_night(1, "no <i>disk</i>", START)
    files = publish(read_night(store, 1), tmp_path / "out", night_page)
    assert [path.name for path in files] == ["report.json", "report.md", "report.html"]
    html = files[-1].read_text(encoding="utf-8")
    assert "no &lt;i&gt;disk" in html
    assert "<svg" not in html


def test_a_night_that_never_was_is_refused(store: SqlStore) -> None:
    """A report of an unknown night names the verb that lists them."""
    with pytest.raises(Rejected, match="there is no night 9"):
        read_night(store, 9)


def test_the_verb_writes_where_it_is_told(
    tmp_path: Path, play: Callable[..., Night], store: SqlStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nights report N --out` names its files, `--json` prints the numbers of the file and writes nothing."""
    play()
    store.close()
    (tmp_path / "token").touch(0o600)
    (tmp_path / "f.toml").write_text(
        'data_dir = "data"\n[forge]\nurl = "http://forge"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["o/r"]\n'
    )
    out = tmp_path / "out"
    capsys.readouterr()  # what the night logged
    main(["--config", str(tmp_path / "f.toml"), "nights", "report", "1", "--out", str(out)])
    named = capsys.readouterr().out.split()
    assert named == [str(out / name) for name in ("report.json", "report.md", "report.html")]
    main(["--config", str(tmp_path / "f.toml"), "nights", "report", "1", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_neither_daemon_nor_night_loads_plots_before_they_draw() -> None:
    """Importing the daemon, the night and the wiring loads no matplotlib."""
    code = "import services.daemon, services.night, fleetssd.adapters.pages, sys; print('matplotlib' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "False"
