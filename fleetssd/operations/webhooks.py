"""Put the webhook up, look at it and take it down; doing any of it twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleetssd import hooks
from fleetssd.config import Fleet
from fleetssd.errors import FleetError, Rejected
from fleetssd.hooks import Hook, Place
from fleetssd.ports import Hooks
from fleetssd.records import watched

Watch = Callable[[Callable[[], None]], str]
"""Sends a test delivery by its argument and returns how it ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the hook at one place; `error` where nothing did; `test` says how a test delivery ended."""

    place: Place
    did: str
    hook: Hook | None = None
    test: str = ""
    error: FleetError | None = None


def places(forge: Hooks, fleet: Fleet) -> list[Place]:
    """Return the watched repositories: those named outright, and those that a glob finds among the visible ones."""
    plain = [name for name in fleet.repositories if not set(name) & set("*?[")]
    found = plain if len(plain) == len(fleet.repositories) else [*plain, *forge.repositories()]
    return [Place(name) for name in dict.fromkeys(found) if watched(name, fleet)]


def install(forge: Hooks, wanted: Sequence[Place], url: str, secret: str, watch: Watch | None = None) -> list[Outcome]:
    """Make the hook at every place, or mend the one that calls this address; further ones with it are removed.

    `watch` makes a test delivery be sent and says how it ended; with it each repository's hook listens to pushes
    while it is tested. What fails at one place is its outcome: the others go on.
    """

    def one(place: Place) -> Outcome:
        did, hook = _put(
            forge, place, url, secret, hooks.EVENTS if watch is None or place.organization else hooks.TESTED
        )
        if watch is None or place.organization:
            return Outcome(
                place, did, hook, "" if watch is None else "not made: an organisation's hook cannot be tested"
            )
        try:
            test = _tested(forge, place, hook, watch)
        finally:
            hook = forge.mend(place, hook.id, hooks.body(url, secret, hooks.EVENTS))
        return Outcome(place, did, _sound(hook, url), test)

    return [_caught(place, one) for place in wanted]


def listed(forge: Hooks, wanted: Sequence[Place]) -> list[tuple[Place, list[Hook] | FleetError]]:
    """Return every hook at every place, or why it cannot be told."""

    def one(place: Place) -> list[Hook] | FleetError:
        try:
            return forge.hooks(place)
        except FleetError as error:
            return error

    return [(place, one(place)) for place in wanted]


def remove(forge: Hooks, wanted: Sequence[Place], url: str) -> list[Outcome]:
    """Take down every hook that calls this address; where there is none, nothing is done."""

    def one(place: Place) -> Outcome:
        ours = [hook for hook in forge.hooks(place) if hook.url == url]
        for hook in ours:
            forge.drop(place, hook.id)
        return Outcome(place, "removed" if ours else "absent")

    return [_caught(place, one) for place in wanted]


def _caught(place: Place, one: Callable[[Place], Outcome]) -> Outcome:
    try:
        return one(place)
    except FleetError as error:
        return Outcome(place, "failed", error=error)


def _put(forge: Hooks, place: Place, url: str, secret: str, events: tuple[str, ...]) -> tuple[str, Hook]:
    """Make or mend the one hook; its secret is never shown, so a mended one always gets ours again."""
    ours = [hook for hook in forge.hooks(place) if hook.url == url]
    body = hooks.body(url, secret, events)
    if not ours:
        return "created", _sound(forge.create(place, body), url)
    mended = _sound(forge.mend(place, ours[0].id, body), url)
    for further in ours[1:]:
        forge.drop(place, further.id)
    return "updated", mended


def _sound(hook: Hook, url: str) -> Hook:
    wrong = hooks.faults(hook, url)
    if wrong:
        raise Rejected(f"hook {hook.id} is not what was asked for: {', '.join(wrong)}", hint="Which version is it?")
    return hook


def _tested(forge: Hooks, place: Place, hook: Hook, watch: Watch) -> str:
    try:
        return watch(lambda: forge.test(place, hook.id))
    except Rejected as error:
        return f"not made: {error.message}"
