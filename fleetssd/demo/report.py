"""The demo's report: one self-contained page with its tables and a plot of pass@1 by night."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Any

import jinja2

from fleetssd.demo.summary import percent


def render(told: dict[str, Any]) -> str:
    """Return the page for a `summary`; it opens without a network, light and dark."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = lambda interval, signed=False: percent(interval, signed=signed)
    source = files("fleetssd.demo").joinpath("report.html").read_text(encoding="utf-8")
    judged = [night for night in told["nights"] if night["verdict"]]
    return environment.from_string(source).render(told=told, nights=judged, plot=plot(judged))


def plot(nights: list[dict[str, Any]]) -> str:
    """Draw pass@1 of every arm by night, with 95 % intervals, and return it as SVG."""
    import matplotlib as mpl  # noqa: PLC0415  slow to import, and only the report needs it

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    colours = {"incumbent": "#888888", "base": "#4c78a8", "tuned_base": "#f2a93b", "candidate": "#2a9d5c"}
    for shift, (arm, colour) in enumerate(colours.items()):
        scores = [night["arms"][arm]["pass@1"] for night in nights]
        middle = [100 * score["point"] for score in scores]
        ends = [[100 * (s["point"] - s["low"]) for s in scores], [100 * (s["high"] - s["point"]) for s in scores]]
        places = [night["night"] + (shift - 1.5) * 0.12 for night in nights]
        axes.errorbar(places, middle, yerr=ends, fmt="o", color=colour, capsize=3, label=arm.replace("_", " "))
    axes.set_xticks([n["night"] for n in nights], [f"night {n['night']}\n{n['arm']}: {n['verdict']}" for n in nights])
    axes.set_ylabel("pass@1 on held-out issues, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize="small")
    axes.grid(axis="y", alpha=0.3)
    page = io.StringIO()
    figure.savefig(page, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = page.getvalue()
    return text[text.index("<svg") :]
