"""The demonstration: three nights of a small fleet, with real parts, told on the screen and checked as it goes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from fleetssd.adapters.rich_bar import bar
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint, Night, Swap
from fleetssd.demo import processes
from fleetssd.demo.people import People
from fleetssd.demo.report import demo_page
from fleetssd.demo.show import show_checks, show_night, show_swaps
from fleetssd.demo.summary import Check, night_summary, summary
from fleetssd.demo.world import NIGHT_1, NIGHT_2, NIGHT_3, World
from fleetssd.errors import Transient
from fleetssd.split import TWIN
from fleetssd.status import served
from fleetssd.toy import corpus
from fleetssd.toy.base import BaseSettings, read_base
from fleetssd.toy.work import WorkItem, seasons, some_work

T = TypeVar("T")
PATIENCE = 900.0
"""Seconds that any one wait may take before the demo gives up and names the logs."""


class Story:
    """One run of the demo: the world, what is on the screen and what was checked so far."""

    def __init__(self, world: World, console: Console) -> None:
        self.world, self.console = world, console
        self.checks: list[Check] = []
        self.started = time.monotonic()
        self.store: SqlStore
        self.daemon: subprocess.Popen[bytes]

    def say(self, text: str) -> None:
        """Print one line of the story with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        self.console.print(f"[dim]{minutes:2d}:{seconds:02d}[/] {text}", highlight=False)

    def check(self, name: str, ok: bool, seen: str = "") -> None:
        """Remember whether a claim holds."""
        self.checks.append(Check(name, bool(ok), seen))

    def wait(
        self, what: str, look: Callable[[], T | None], progress: Callable[[], tuple[int, int, str]] | None = None
    ) -> T:
        """Look until there is something to see. Raises Transient where the daemon dies or patience ends."""
        end = time.monotonic() + PATIENCE
        with bar(self.console) as shown:
            task = shown.add_task(what, total=None)
            while (found := look()) is None:
                if self.daemon.poll() is not None:
                    raise Transient("the daemon ended", hint=f"Read {self.world.logs / 'daemon.log'}.")
                if time.monotonic() > end:
                    raise Transient(f"{what}: nothing within {PATIENCE:.0f} s", hint=f"Read {self.world.logs}.")
                if progress is not None:
                    done, total, text = progress()
                    shown.update(task, completed=done, total=total or None, description=f"{what}: {text}")
                time.sleep(0.25)
        return found


def run(root: Path, seed: int, console: Console, *, first: int = 450, second: int = 350) -> bool:
    """Play the three nights and return whether everything that the demo claims was so."""
    world = World(root.resolve(), seed)
    story = Story(world, console)
    story.say("preparing the world in " + str(world.root))
    world.prepare()
    build_base(story)
    with ExitStack() as stack:
        fleet = _open(story, stack)
        early, late = seasons(some_work(seed, first + second), first)
        fleet.prepare([*early, *late])
        _night_1(story, fleet, early)
        _night_2(story, fleet, late)
        _night_3(story)
        nights, swaps = story.store.nights(), story.store.swaps()
        _final_checks(story, nights, swaps)
    show_swaps(console, swaps)
    show_checks(console, story.checks)
    told = summary(nights, swaps, story.checks)
    (world.root / "summary.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    (world.root / "report.html").write_text(demo_page(told), encoding="utf-8")
    _goodbye(story)
    return all(check.ok for check in story.checks)


def build_base(story: Story) -> None:
    """Train the tiny base model, or find it in the cache."""
    wanted = BaseSettings()
    pairs = corpus.pretraining(wanted.seed, wanted.pairs, noise=wanted.noise)
    if read_base(story.world.base, wanted, corpus.digest(pairs)) is not None:
        story.say("the base (a Qwen3 of 0.9 M parameters) is in the cache")
        return
    with bar(story.console) as shown:
        task = shown.add_task("building the tiny base model (once)", total=None)

        def step(event: dict[str, Any]) -> None:
            if event.get("event") == "step":
                shown.update(task, completed=event["step"], total=event["steps"])

        command = ["services.trainer", "base", "--out", str(story.world.base), "--seed", "0"]
        processes.run_steps(command, story.world.logs / "base.log", step)
    story.say("the base is a Qwen3 of 0.9 M parameters, trained from scratch on small programming issues")


def _open(story: Story, stack: ExitStack) -> People:
    world = story.world
    forge = stack.enter_context(
        processes.server(
            "services.embedded_forge", "--port", "0", "--data", str(world.root / "forge"), log=world.logs / "forge.log"
        )
    )
    engine = stack.enter_context(
        processes.server(
            "services.embedded_ollama", "--port", "0", "--data", str(world.root / "ollama"),
            "--profile", "0.34.1", "--parallel", "16", log=world.logs / "ollama.log",
        )
    )  # fmt: skip
    world.forge_url, world.forge_token, world.engine_url = forge["url"], Path(forge["token_file"]), engine["url"]
    world.serve_base()
    world.write_config(NIGHT_1)
    world.advance_to(12)  # noon: no night is due before the fleet has worked
    story.store = world.store()
    stack.callback(story.store.close)
    story.daemon = stack.enter_context(processes.daemon(world.config, world.logs / "daemon.log"))
    story.say(
        f"forge at {world.forge_url}, engine at {world.engine_url} (profile 0.34.1), status page at http://127.0.0.1:{world.web_port}/"
    )
    hook = f"http://127.0.0.1:{world.web_port}/webhook"
    people = People.open(world.forge_url, world.root / "forge", world.root / "clones", hook, world.secret_file)
    stack.callback(people.close)
    return people


def _night_1(story: Story, fleet: People, items: Sequence[WorkItem]) -> None:
    world = story.world
    _work(story, fleet, items)
    night = _night(story, 1, "simple self-distillation on the fleet's own prompts; the adapter travels by registry")
    checkpoint = _dawn(story, night)
    if checkpoint is None:
        return
    story.say(f"[bold red]FAULT (on purpose):[/] the engine now garbles every answer of {checkpoint.model}")
    world.garble(checkpoint.model)
    base = served_name(story)
    back = story.wait("the watch window looks", lambda: _done(story, "rollback"))
    world.garble("")
    story.say(f"the watch saw it and went back to {base}: {back.reason}")
    digest = story.store.checkpoint(back.to_digest)
    story.check(
        "after the fault the alias serves the base again",
        digest is not None and digest.kind == "base" and world.served_digest() == digest.served_digest,
        back.to_digest[:12],
    )


def _night_2(story: Story, fleet: People, items: Sequence[WorkItem]) -> None:
    world = story.world
    world.write_config(NIGHT_2)
    _work(story, fleet, items)
    night = _night(story, 2, "the fleet's merged work, with the decode baked into the weights; a merged file by create")
    checkpoint = _dawn(story, night)
    if checkpoint is None:
        return
    flipped = _done(story, "flip", checkpoint.digest)
    assert flipped is not None  # noqa: S101  the dawn has just proven it
    story.wait("the watch looks", lambda: story.store.answers(2, f"watch {flipped.id}") or None)
    world.set_clock(world.now().replace(hour=9, minute=0))
    settled = story.wait("the watch window passes", lambda: _done(story, "settle"))
    story.say(f"{checkpoint.model} has settled: {settled.reason}")
    split = next(part for part in night_summary(night)["split"] if part["slice"] == "all")
    story.check(
        "night 2 beats the base at its best temperature (skill)",
        split["skill"]["low"] > 0,
        f"{100 * split['skill']['point']:+.1f} pp",
    )


def _night_3(story: Story) -> None:
    world = story.world
    before = world.served_digest()
    world.write_config(NIGHT_3)
    night = _night(story, 3, "over-trained on a narrow pool, to see the gate say no")
    verdict = night.verdict
    story.check(
        "night 3 was rejected", verdict is not None and verdict.kind == "reject", verdict.reason if verdict else ""
    )
    world.advance_to(6)
    time.sleep(3.0)  # the dawn passes: several ticks of the daemon with nothing to flip
    story.check("night 2's checkpoint keeps serving", world.served_digest() == before, before[:12])


def _work(story: Story, fleet: People, items: Sequence[WorkItem]) -> None:
    before = len(story.store.records())
    begun = time.monotonic()
    with bar(story.console) as shown:
        task = shown.add_task("the fleet works", total=len(items))
        fleet.work(items, lambda done, _total, _what: shown.update(task, completed=done))
    story.say(f"agents opened {len(items)} pull requests and a human merged them ({time.monotonic() - begun:.0f} s)")
    wanted = before + len(items)
    story.wait(
        "records",
        lambda: True if len(story.store.records()) >= wanted and not story.store.unsettled(1) else None,
        lambda: (len(story.store.records()) - before, len(items), "read from the forge"),
    )
    counts = {state: len(story.store.records(state)) for state in ("train", "held_out", "refused")}
    story.say(f"records: {counts['train']} train, {counts['held_out']} held out, {counts['refused']} refused")
    refused = story.store.records("refused")  # some toy problems are others renamed, and their twins examine
    story.check(
        f"all {len(items)} merged pull requests became records",
        len(story.store.records()) == wanted and {reason for r in refused for reason in r.reasons} <= {TWIN},
    )


def _night(story: Story, number: int, about: str) -> Night:
    story.console.rule(f"night {number}")
    story.say(about)
    story.world.advance_to(2)

    def decided() -> Night | None:
        night = story.store.night(number)
        return night if night is not None and night.state != "running" else None

    night = story.wait(f"night {number}", decided, lambda: _night_progress(story, number))
    show_night(story.console, night)
    if night.verdict is None:
        raise Transient(
            f"night {number} failed: {night.failure}", hint=f"Read {story.world.data / 'nights' / 'night.log'}."
        )
    return night


def _night_progress(story: Story, number: int) -> tuple[int, int, str]:
    """Return the last progress line of the night's log."""
    night = story.store.night(number)
    done = ", ".join(row.stage for row in night.stages) if night else ""
    try:
        tail = (story.world.data / "nights" / "night.log").read_bytes()[-4000:].decode(errors="replace")
    except FileNotFoundError:
        return 0, 0, "starting"
    for line in reversed(tail.splitlines()):
        if '"event": "progress"' in line:
            told = json.loads(line)
            return told["done"], told["total"], f"{told['what']} (done: {done})"
    return 0, 0, f"done: {done}"


def _dawn(story: Story, night: Night) -> Checkpoint | None:
    verdict, k = night.verdict, night.plan["k"]
    told = night_summary(night)
    story.check(
        f"night {night.number} was promoted on a lift whose interval is above 0",
        verdict is not None and verdict.kind == "promote" and told["lift"]["low"] > 0,
        f"{100 * told['lift']['point']:+.1f} pp",
    )
    story.check(
        f"night {night.number}: pass@{k} is not lower by more than the margin",
        told[f"lift_pass@{k}"]["point"] >= -0.05,
        f"{100 * told[f'lift_pass@{k}']['point']:+.1f} pp",
    )
    if verdict is None or verdict.kind != "promote":
        return None
    checkpoint = story.store.checkpoint(verdict.artefact)
    assert checkpoint is not None  # noqa: S101  a promoted artefact is on file
    story.world.advance_to(6)
    swap = story.wait("dawn", lambda: _done(story, "flip", checkpoint.digest))
    story.say(f"dawn: {story.world.now():%H:%M}, the alias moved from {swap.from_digest[:12]} to {checkpoint.model}")
    _prove_served(story, checkpoint)
    return checkpoint


def _prove_served(story: Story, checkpoint: Checkpoint) -> None:
    world, number = story.world, checkpoint.night
    story.check(
        f"after dawn {number} the alias has the digest of night {number}",
        world.served_digest() == checkpoint.served_digest,
        checkpoint.digest[:12],
    )
    prompt = story.store.records("held_out")[0].prompt
    through_alias, direct = world.ask(prompt), world.ask(prompt, model=checkpoint.model)
    story.check(
        f"an agent's call after dawn {number} is answered by night {number}'s checkpoint",
        bool(through_alias) and through_alias == direct,
    )
    story.say(f"an agent asks: {prompt}")
    story.console.print(through_alias, style="cyan", markup=False, highlight=False)


def _done(story: Story, kind: str, to_digest: str = "") -> Swap | None:
    found = [
        swap for swap in story.store.swaps() if swap.kind == kind and swap.done and to_digest in ("", swap.to_digest)
    ]
    return found[-1] if found else None


def served_name(story: Story) -> str:
    """Return the name of the frozen base, for the story's text."""
    base = next(checkpoint for checkpoint in story.store.checkpoints() if checkpoint.kind == "base")
    return base.model


def _final_checks(story: Story, nights: Sequence[Night], swaps: Sequence[Swap]) -> None:
    kinds = [swap.kind for swap in swaps if swap.done]
    story.check(
        "the swap log reads flip, rollback, flip, settle",
        kinds == ["flip", "rollback", "flip", "settle"],
        ", ".join(kinds),
    )
    trained = {row.result["base_digest"] for night in nights for row in night.stages if row.stage == "train"}
    story.check("every night trained from the same frozen base", len(trained) == 1 and len(nights) == 3)
    overlaps = [night.verdict.evidence["overlap"] for night in nights if night.verdict]
    story.check("no held-out issue was trained on", overlaps == [0] * len(nights))
    now = served(swaps, story.store.checkpoints())
    story.check(
        "night 2's digest is what the alias serves at the end",
        now is not None and now.night == 2 and story.world.served_digest() == now.served_digest,
    )


def _goodbye(story: Story) -> None:
    root = story.world.root
    minutes = (time.monotonic() - story.started) / 60
    story.console.print(
        f"\n{minutes:.1f} minutes. Everything lies in {root}: report.html (open it), summary.json, config.toml,\n"
        f"data/fleetssd.sqlite3 (the store), data/nights/ (adapters and artefacts), logs/.\n"
        f"Ask it: FLEETSSD_CONFIG={root / 'config.toml'} .venv/bin/fleetssd status",
        highlight=False,
    )
