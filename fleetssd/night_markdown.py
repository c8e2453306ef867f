"""A night's report as Markdown: the same numbers as its page, for a terminal, a diff or an issue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleetssd.ledger import spark
from fleetssd.night_report import NightReport

_MARKS = re.compile(r"([\\`*_{}\[\]<>|#!~&]|(?<!\w)@)")  # `@` alone would call somebody
_SHOWN = 5  # issues listed at each end


def markdown(report: NightReport) -> str:
    """Return the report as Markdown; what others wrote stands in it as plain text."""
    parts = [_head(report), *_tables(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def between(interval: Mapping[str, float] | None, *, signed: bool = False) -> str:
    """Render a share in percent, its interval first."""
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    low, high, point = (f"{100 * interval[end]:{sign}.1f}" for end in ("low", "high", "point"))
    return f"{low} to {high} (middle {point})"


def amount(value: float | None) -> str:
    """Render a number that has no unit of ours in three digits; a dash where it was not measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def moment(text: str | None) -> str:
    """Render an ISO moment to the minute; all of them are UTC."""
    return f"{text[:16].replace('T', ' ')} UTC" if text else "-"


def level(share: float | None) -> str:
    """Render the confidence that intervals are at."""
    return "-" if share is None else f"{100 * share:.4g} %"


def tonight(interval: Mapping[str, float]) -> str:
    """Render the gain at tonight's share of the error budget, which names its level."""
    return f"{level(interval['level'])} interval {between(interval, signed=True)} pp"


def test_lines(tests: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the gate looked at beside the intervals as names and rendered values; page and Markdown share it."""
    return [
        ("level tonight, out of the error budget, %", amount(_hundredfold(tests["alpha"]))),
        ("the gain's interval by BCa, pp (decides nothing)", between(tests["lift_bca"], signed=True)),
        ("p-value of the gain, paired by issue", amount(tests["p_value"])),
        ("e-value of the gain", amount(tests["e_value"])),
        ("smallest gain it could show (80 % power), pp", amount(_hundredfold(tests["detectable"]))),
        ("runs lost to sandbox faults, %", amount(_hundredfold(tests["void_share"]))),
        ("held-out issues that leaked into training", amount(tests["overlap"])),
        ("verdicts before this one", amount(tests["consulted"])),
        ("τ baked into the weights (1: none)", amount(tests["tau"])),
    ]


def flattered_line(share: float | None, choices: int) -> str:
    """Say how much the best of a grid flatters itself; empty where nothing was chosen."""
    if share is None:
        return ""
    return (
        f"The best of {choices} equals would seem {100 * share:.1f} pp better than it is: it is chosen here and judged "
        "on other issues."
    )


def plain(text: object) -> str:
    """Return text as Markdown that shows it letter by letter, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def cost_lines(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the night cost as names and rendered values; page and Markdown show the same."""
    names = {
        "price": f"price of the night, {cost['currency']}",
        "hours": "hours, all stages",
        "learning_hours": "hours of learning (sample, train)",
        "gpu_hours": "GPU-hours of training",
        "cpu_hours": "processor hours of training",
        "energy_kwh": "kWh while training",
        "tokens": "tokens trained on",
        "steps": "steps",
        "pp_per_learning_hour": "pp over the base per hour of learning",
        "pp_per_gpu_hour": "pp over the base per GPU-hour",
        "pp_per_price": f"pp over the base per {cost['currency']}",
    }
    return [(label, amount(cost[name])) for name, label in names.items()]


def guard_word(guard: Mapping[str, Any]) -> str:
    """Return what became of a guard set in a few words."""
    margin, sees = f"{100 * guard['margin']:.0f} pp", f"could show a drop of {100 * guard['sees']:.0f} pp"
    words = {
        "holds": f"holds within {margin}",
        "drop": f"DROPPED by more than {margin}",
        "open": f"not shown to hold within {margin}; {sees}",
        "few": f"too few items for {margin}; {sees}",
        "blind": "no evidence: the base passes too little",
    }
    return words[guard["state"]]


def _head(r: NightReport) -> str:
    lines = [f"# Night {r.number}, arm {plain(r.arm)}", plain(r.sentence)]
    if r.gain is not None:
        lines.append(f"Gain in pass@1 over the incumbent: **{between(r.gain, signed=True)}** pp.")
        if r.gain_tonight is not None:
            lines.append(f"The same at tonight's share of the error budget: {tonight(r.gain_tonight)}.")
        lines.append(f"Gain over the base at its best temperature: **{between(r.over_tuned, signed=True)}** pp.")
        if r.over_teacher is not None:
            lines.append(f"Gain over the base at the teacher's decode: {between(r.over_teacher, signed=True)} pp.")
        lines.append(f"Gain in pass@{r.k}: {between(r.gain_k, signed=True)} pp.")
        lines.append(f"Intervals are at {level(r.level)} by issue, unless they name a level of their own.")
    lines.append(f"Started {moment(r.started_at)}, finished {moment(r.finished_at)}.")
    if r.artefact is not None:
        named = [f"{name.replace('_', '-')} {value}" for name, value in r.origin.items() if value is not None]
        lines.append(plain(f"Artefact {r.artefact}; {', '.join(named)}."))
    return "\n\n".join([*lines, *(plain(note) for note in r.notes)])


def _tables(r: NightReport) -> Iterable[str]:
    yield _table(
        "Arms",
        ("arm", "T", "pass@1, %", f"pass@{r.k}, %"),
        [(a["arm"], amount(a["temperature"]), between(a["pass_1"]), between(a["pass_k"])) for a in r.arms],
    )
    yield _table(
        "Where the gain comes from, pp",
        ("slice", "issues", "over the incumbent", "p (Holm)", "over the base", "decoding", "skill", "teacher decode"),
        [
            (
                s["slice"],
                s["problems"],
                between(s["gain"], signed=True),
                amount(s["holm"]),
                *(between(s[n], signed=True) for n in ("total", "decoding", "skill", "teacher")),
            )
            for s in r.slices
        ],
    )
    yield _table(
        "Probes",
        ("probe", "base", "candidate", ""),
        [(p["probe"], amount(p["base"]), amount(p["candidate"]), "ALARM" if p["alarm"] else "") for p in r.probes],
    )
    yield _table(
        f"Guard tasks, {level(r.guards[0]['level'])} intervals" if r.guards else "Guard tasks",
        ("set", "items", "base, %", "candidate, %", "change, pp", ""),
        [
            (g["name"], g["items"], between(g["base"]), between(g["candidate"]), between(g["change"], signed=True),
             guard_word(g))
            for g in r.guards
        ],
    )  # fmt: skip
    yield _table("Tests", ("", ""), test_lines(r.tests) if r.verdict else [])
    yield _table(
        "pass@1 by temperature, on issues that never judge",
        ("T", "pass@1, %", ""),
        [(amount(t["temperature"]), between(t["pass_1"]), "best" if t["chosen"] else "") for t in r.by_temperature],
    )
    yield plain(flattered_line(r.flattered, len(r.by_temperature)))
    yield _table(
        "By night, pass@1, %",
        ("night", "arm", "verdict", "base", "tuned base", "incumbent", "candidate"),
        [
            (n["number"], n["arm"], n["verdict"],
             *(between(n["pass_1"].get(a)) for a in ("base", "tuned base", "incumbent", "candidate")))
            for n in r.by_night
        ],
    )  # fmt: skip
    yield _issues(r.issues)
    if r.losses:
        yield f"## Loss\n\n{r.losses[0]:.3f} {spark(r.losses)} {r.losses[-1]:.3f}"
    rows = [(f"seconds of {stage['stage']}", f"{stage['seconds']:.1f}") for stage in r.cost["stages"]]
    yield _table("Cost", ("", ""), [*rows, *cost_lines(r.cost)])
    yield _table(
        "Gain over the base against hours of learning",
        ("", "hours", "gain, pp", ""),
        [
            (p["name"], amount(p["hours"]), between(p["gain"], signed=True), "on the front" if p["front"] else "")
            for p in r.pareto
        ],
    )
    yield _table("Ledger", ("", ""), r.ledger)


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _issues(issues: Sequence[Mapping[str, Any]]) -> str:
    ends = issues if len(issues) <= 2 * _SHOWN else [*issues[:_SHOWN], *issues[-_SHOWN:]]
    rows = [(issue["name"], f"{100 * issue['delta']:+.0f}") for issue in ends]
    return _table("Issues that moved most, pp", ("issue", "candidate - incumbent"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(line) + " |" for line in lines)])
