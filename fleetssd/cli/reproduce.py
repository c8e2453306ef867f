"""The verb `reproduce`: the paper's experiments in small, on this machine, with nothing left out of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fleetssd import forklock
from fleetssd.adapters.rich_bar import bar
from fleetssd.cli.app import app, err
from fleetssd.cli.reading import percent, points, print_json, show, table
from fleetssd.ports import Progress

if TYPE_CHECKING:
    from fleetssd.demo.reproduction import Line, Size

verbs = typer.Typer(help="Rerun the experiments of the paper in small.", no_args_is_help=True)
app.add_typer(verbs, name="reproduce")


@verbs.callback()
def _group() -> None:
    """Rerun the experiments of the paper in small."""


@verbs.command()
def toy(
    folder: Annotated[
        Path, typer.Option("--dir", help="Base and results; one of a demo has the base.", file_okay=False)
    ] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Fleets, each with a training run of every arm.")] = 3,
    issues: Annotated[int, typer.Option(min=2, help="Held-out issues a seed, 8 samples each.")] = 120,
    records: Annotated[int, typer.Option(min=8, help="Merged records a seed to train on.")] = 300,
    simulation_only: Annotated[
        bool, typer.Option("--simulation-only", help="No model: only the paper's simulation, in a second.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Run the paper's fork/lock simulation, then train and compare four arms on the demo's tiny model.

    An interrupted run goes on where it stood. Example: fleetssd reproduce toy --seeds 1 --issues 60 --records 150
    """
    rows = forklock.table()
    if simulation_only:
        print_json({"simulation": _plain(rows)}) if as_json else show(_simulation(rows), _FORKLOCK)
        return
    # The experiment's parts (the corpus, the sandbox, the builder) are slow to import and no other verb needs them.
    from fleetssd.demo import reproduction  # noqa: PLC0415

    size = reproduction.Size(issues=issues, records=records)
    with _progress() as progress:
        base = reproduction.ready_base(folder, progress)
        measured = reproduction.Reproduction(base, folder / "reproduction", size, progress).run(range(1, seeds + 1))
    found = reproduction.lines(measured, size.samples)
    said = reproduction.reading(found)
    if as_json:
        print_json(
            {
                "simulation": _plain(rows),
                "size": asdict(size),
                "seeds": seeds,
                "tuned": [run["tuned"] for run in measured],
                "rows": [{arm: run["arms"][arm]["rows"] for arm in run["arms"] if arm != "base"} for run in measured],
                "lines": [asdict(line) for line in found],
                "reading": said,
            }
        )
        return
    show(_simulation(rows), _FORKLOCK, _experiment(found, size, measured), "\n".join(said), _CAVEAT)


_FORKLOCK = (
    "P(pass) of a path with one fork and three locks; student: exact fit at T_train 0.9, top-p 0.85. Each at its own "
    "best T.\nThe student wins at every top-p, but tuning top-p alone takes the teacher from 8.3 to 12.0 %."
)
_CAVEAT = (
    "Intervals (95 %) are paired bootstraps by issue, or Wilson's, over the issues of all seeds, for these runs;\n"
    "'by seed' shows how runs differ. The sentences name the better of an arm's two decodes, which flatters it.\n"
    "p: sign flips by issue against the tuned base, adjusted for all arms at both decodes (Holm).\n"
    "Model (0.9 M parameters) and corpus are the demo's: half of the issues speak words that only merged work explains."
)


def _simulation(rows: Sequence[forklock.Row]) -> Table:
    made = table("Fork/lock simulation", "eval top-p", "teacher", "at T", "student", "at T", "gap (pp)")
    for row in rows:
        cells = [f"{row.top_p:.2f}"]
        for best in (row.teacher, row.student):
            cells += [f"{100 * best.passed:.2f} %", f"{best.temperature:.3f}"]
        made.add_row(*cells, f"{100 * row.gap:+.2f}")
    return made


def _experiment(lines: Sequence[Line], size: Size, measured: Sequence[dict[str, Any]]) -> Table:
    chosen = ", ".join(f"{run['tuned']['temperature']:g}" for run in measured)
    k = size.samples
    title = f"Tiny model: {len(measured)} seeds x {size.issues} issues x {k} samples, {size.records} records"
    made = table(
        title,
        "arm",
        "T",
        "pass@1 %",
        f"pass@{k} %",
        "over base, same T (pp)",
        "over tuned base (pp)",
        "p (Holm)",
        "by seed %",
    )
    for line in lines:
        where = f"{line.temperature:g}" if line.temperature else chosen
        if line.note:
            made.add_row(line.arm, where, f"[yellow]{line.note}[/]")
            continue
        cells = [percent(asdict(each)) if each else "-" for each in (line.pass_1, line.pass_k)]
        cells += [
            points(asdict(each)).removesuffix(" pp") if each else "-" for each in (line.over_base, line.over_tuned)
        ]
        name = "tuned base" if line.arm == "base" and not line.temperature else line.arm
        p = "-" if line.p is None else f"{line.p:.2g}"
        made.add_row(name, where, *cells, p, " ".join(f"{100 * each:.1f}" for each in line.by_seed))
    return made


def _plain(rows: Sequence[forklock.Row]) -> list[dict[str, Any]]:
    return [asdict(row) | {"gap": row.gap} for row in rows]


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar on stderr that names what is under way; a log file gets none."""
    with bar(err) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda done, total, what: shown.update(task, completed=done, total=total or None, description=what)
