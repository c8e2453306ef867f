"""Behaviour that some servers show and this one shows only when asked: switches, and faults for chosen requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from fleetssd.errors import Misconfigured


@dataclass(slots=True)
class Fault:
    """Answer the next `times` requests that match with something else; `path` is a shell pattern."""

    path: str
    method: str = "*"
    status: int = 500
    body: str = '{"message":"","url":""}'
    content_type: str = "application/json;charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Tell whether this request is to fail, and count it."""
        if self.times <= 0 or not (fnmatchcase(method, self.method) and fnmatchcase(path, self.path)):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Quirks:
    """All switches, off by default."""

    zone_minutes: int = 0
    """Show times in a zone this far east of UTC."""
    version_text: str = ""
    """What /version says instead of the version that is played."""
    link_root: str = ""
    """Address of another host for Link headers and the `url` of rows and errors."""
    total_count_drift: bool = False
    """X-Total-Count grows by one with every page that is asked for."""
    repeat_last_row: bool = False
    """Every page after the first repeats the row that ended the page before."""
    double_row: bool = False
    """Every page holds its last row twice."""
    page_cap: int = 0
    """Pages of every list, the search too, are cut to so many rows in silence."""
    null_arrays: bool = False
    """Arrays without items are null."""
    null_timeline_item: bool = False
    """Timelines end in a null item."""
    sign_in_required: bool = False
    """Anonymous callers get 403 everywhere."""
    webhooks_disabled: bool = False
    """Hooks cannot be created."""
    disable_partial_clone: bool = False
    """Git filters are ignored."""
    recheck_before_mark: bool = False
    """A pull request pushed by hand is checked again before it is marked as merged: merge_base is the head."""
    busy_merges: int = 0
    """So many merge calls are answered with 405 `Please try again later`."""
    hold_deliveries: bool = False
    """No webhook is sent, as when the receiver's host is not allowed."""
    repeat_deliveries: bool = False
    """Every delivery comes twice: same bytes, new UUID."""
    hook_action: str = ""
    """The action that every delivery names instead of its own."""
    forgejo_headers: bool = False
    """Deliveries carry X-Forgejo-* headers too."""
    clock_offset: int = 0
    """Seconds by which the server's clock is ahead."""
    faults: list[Fault] = field(default_factory=list)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Return the first fault that takes this request."""
        return next((fault for fault in self.faults if fault.takes(method, path)), None)


def parse(values: Mapping[str, Any]) -> Quirks:
    """Build quirks from a JSON object; raise Misconfigured for an unknown name or a value of another type."""
    known = {item.name: item for item in dataclasses.fields(Quirks)}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise Misconfigured(f"unknown quirk {name!r}", hint=f"did you mean {near[0]!r}?" if near else "")
    default = Quirks()
    for name, value in values.items():
        if not isinstance(value, type(getattr(default, name))):
            raise Misconfigured(f"quirk {name!r} cannot be {value!r}")
    faults = [Fault(**fault) for fault in values.get("faults", [])]
    return Quirks(**{**values, "faults": faults})
