"""The demo's report: one self-contained page with its tables and a plot of pass@1 by night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleetssd.adapters.pages import drawings, render
from fleetssd.demo.summary import ARMS


def demo_page(told: dict[str, Any]) -> str:
    """Return the page for a `summary`; it opens without a network, light and dark."""
    judged = [night for night in told["nights"] if night["verdict"]]
    points = [
        {
            "number": night["night"],
            "arm": night["arm"],
            "verdict": night["verdict"],
            "pass_1": {name: night["arms"][key]["pass@1"] for name, key in ARMS.items() if key in night["arms"]},
        }
        for night in judged
    ]
    return render("report.html", Path(__file__).parent, told=told, nights=judged, plot=drawings.by_night(points))
