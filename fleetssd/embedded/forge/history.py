"""Questions about the commit graph, answered over `Objects` in this process."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from fleetssd.embedded.forge.objects import Objects

_LEFT, _RIGHT, _STALE = 1, 2, 4


def merge_base(objects: Objects, left: str, right: str) -> str:
    """Return a best common ancestor, "" where there is none (git's paint-down by commit date)."""
    if left == right:
        return left
    marks = {left: _LEFT, right: _RIGHT}
    queue = [(-objects.commit(name).seconds, name) for name in marks]
    heapq.heapify(queue)
    found: list[str] = []
    while queue and any(not marks[name] & _STALE for _, name in queue):
        name = heapq.heappop(queue)[1]
        mark = marks[name]
        if mark & (_LEFT | _RIGHT) == (_LEFT | _RIGHT) and not mark & _STALE:
            found.append(name)
            mark |= _STALE
        for parent in objects.commit(name).parents:
            if marks.get(parent, 0) & mark != mark:
                marks[parent] = marks.get(parent, 0) | mark
                heapq.heappush(queue, (-objects.commit(parent).seconds, parent))
    best = list(dict.fromkeys(name for name in found if not marks[name] & _STALE))
    # Where clocks ran backwards an ancestor of the best may be among them.
    return next((name for name in best if not any(_holds(objects, other, name) for other in best)), "")


def _holds(objects: Objects, tip: str, name: str) -> bool:
    return tip != name and name in reachable(objects, [tip], set())


def is_ancestor(objects: Objects, old: str, new: str) -> bool:
    """Tell whether `old` can be reached from `new`."""
    return merge_base(objects, old, new) == old


def between(objects: Objects, base: str, head: str) -> list[str]:
    """List the commits of `head` that `base` does not hold, newest first."""
    held = reachable(objects, [base], set()) if base else set()
    return newest_first(objects, reachable(objects, [head], held) - held)


def reachable(objects: Objects, tips: Iterable[str], stop: set[str]) -> set[str]:
    """Collect the commits that can be reached from `tips` without passing through `stop`."""
    seen: set[str] = set()
    waiting = list(tips)
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in stop:
            seen.add(name)
            waiting.extend(objects.commit(name).parents)
    return seen


def newest_first(objects: Objects, names: set[str]) -> list[str]:
    """Order commits so that none stands before one of its children, by date where the graph leaves a choice."""
    children = dict.fromkeys(names, 0)
    for name in names:
        for parent in objects.commit(name).parents:
            if parent in children:
                children[parent] += 1
    ready = [(-objects.commit(name).seconds, name) for name, count in children.items() if not count]
    heapq.heapify(ready)
    ordered: list[str] = []
    while ready:
        name = heapq.heappop(ready)[1]
        ordered.append(name)
        for parent in objects.commit(name).parents:
            if parent in children:
                children[parent] -= 1
                if not children[parent]:
                    heapq.heappush(ready, (-objects.commit(parent).seconds, parent))
    return ordered
