"""Drawings as SVG to stand inside of a page: transparent, in the page's own ink, with text that can be selected."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

COLOURS = {"incumbent": "#8a8f98", "base": "#4c78a8", "tuned base": "#e09a25", "teacher decode": "#8e6bbf",
           "candidate": "#2a9d5c"}  # fmt: skip
LOSS = "#d1495b"
INK = "#010203"
"""A colour that nothing else has: the page's own ink takes its place, in light and in dark."""
NEWEST = 30
"""Nights that are drawn side by side; the numbers of all are in the report's JSON."""
NAMED = 8
"""As many nights have room for their names."""
_numbers = itertools.count(1)


def by_night(nights: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw pass@1 of every arm by night, with its interval; of many nights the newest."""
    nights = nights[-NEWEST:]

    def draw(axes: Any) -> None:
        for shift, (arm, colour) in enumerate(COLOURS.items()):
            measured = [night for night in nights if arm in night["pass_1"]]
            places = [night["number"] + (shift - 2) * 0.12 for night in measured]
            _points(axes, places, [night["pass_1"][arm] for night in measured], color=colour, label=arm)
        if len(nights) <= NAMED:
            ticks = [night["number"] for night in nights]
            axes.set_xticks(ticks, [f"night {n['number']}\n{n['arm']}: {n['verdict']}" for n in nights])
        else:
            axes.locator_params(axis="x", integer=True)
            axes.set_xlabel("night")
        axes.set_ylabel("pass@1, %")

    return _svg(draw, legend=True) if nights else Markup()


def by_temperature(grid: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the base's pass@1 at every temperature of the grid; the chosen one is filled with another colour."""

    def draw(axes: Any) -> None:
        for chosen, arm in ((False, "base"), (True, "tuned base")):
            some = [point for point in grid if point["chosen"] is chosen]
            places = [point["temperature"] for point in some]
            _points(axes, places, [point["pass_1"] for point in some], color=COLOURS[arm], label=arm)
        axes.set_xlabel("temperature")
        axes.set_ylabel("pass@1, %")

    return _svg(draw, legend=True) if grid else Markup()


def issue_gains(issues: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the gain of every issue as one bar, the worst first."""

    def draw(axes: Any) -> None:
        gains = [100 * issue["delta"] for issue in issues]
        colours = [COLOURS["candidate"] if gain >= 0 else LOSS for gain in gains]
        axes.bar(range(len(gains)), gains, width=1.0, color=colours)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("held-out issues, sorted")
        axes.set_ylabel("candidate - incumbent, pp")

    return _svg(draw) if issues else Markup()


def spread(found: Mapping[str, Sequence[float]] | None, label: str) -> Markup:
    """Draw how a reading is spread over the answers of base and candidate."""
    if found is None:
        return Markup()

    def draw(axes: Any) -> None:
        for arm in ("base", "candidate"):
            shares = [100 * share for share in found[arm]]
            axes.stairs(shares, found["edges"], fill=True, alpha=0.35, color=COLOURS[arm])
            axes.stairs(shares, found["edges"], color=COLOURS[arm], label=arm, linewidth=1.5)
        axes.set_xlabel(label)
        axes.set_ylabel("answers, %")

    return _svg(draw, legend=True)


def losses(values: Sequence[float]) -> Markup:
    """Draw the loss by step."""

    def draw(axes: Any) -> None:
        axes.plot(range(1, len(values) + 1), values, color=COLOURS["candidate"], linewidth=1.5)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")

    return _svg(draw) if values else Markup()


def pareto(points: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the gain over the base against hours of learning; what is on the front has the candidate's colour.

    Of many points those are named that are on it, the base, tonight and the tuned base: the first and the last two.
    """

    def draw(axes: Any) -> None:
        for rank, point in enumerate(points):
            colour = COLOURS["candidate"] if point["front"] else COLOURS["incumbent"]
            _points(axes, [point["hours"]], [point["gain"]], color=colour)
            if len(points) <= NAMED or point["front"] or not 0 < rank < len(points) - 2:
                place = (point["hours"], 100 * point["gain"]["point"])
                axes.annotate(point["name"], place, (7, 4), textcoords="offset points", fontsize="small", color=INK)
        axes.margins(x=0.3)
        axes.xaxis.set_major_formatter(lambda hours, _: f"{hours:g}" if hours >= 0 else "")  # room, not time before 0
        axes.set_xlabel("hours of learning (sample, train)")
        axes.set_ylabel("gain in pass@1 over the base, pp")

    return _svg(draw) if len(points) > 1 else Markup()


def _points(axes: Any, places: Sequence[float], found: Sequence[Mapping[str, float]], **look: Any) -> None:
    if not found:
        return
    middle = [100 * one["point"] for one in found]
    # An interval at a level of its own may miss its middle by rounding, and a negative bar is an error.
    ends = [[max(0.0, 100 * (one["point"] - one["low"])) for one in found],
            [max(0.0, 100 * (one["high"] - one["point"])) for one in found]]  # fmt: skip
    axes.errorbar(places, middle, yerr=ends, fmt="o", capsize=3, **look)


def _svg(draw: Callable[[Any], None], *, legend: bool = False) -> Markup:
    import matplotlib as mpl  # noqa: PLC0415  slow to import, and only a report needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    style = {"svg.fonttype": "none", "svg.hashsalt": "fleetssd", "text.parse_math": False, **ink}
    page = io.StringIO()
    with mpl.rc_context({**style, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.2, 3.2))
        axes = figure.subplots()
        draw(axes)
        axes.grid(axis="y", alpha=0.25, color=INK)
        axes.set_axisbelow(True)
        if legend:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize="small")
        bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(page, format="svg", bbox_inches="tight", transparent=True, metadata=bare)
    return Markup(_inlined(page.getvalue()))  # noqa: S704  matplotlib escapes the text that it draws


def _inlined(text: str) -> str:
    """Return an SVG without its prologue, in the page's ink, its ids apart from those of other drawings."""
    name = f"d{next(_numbers)}"
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
