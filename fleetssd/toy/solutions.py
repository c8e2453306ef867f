"""Python for a problem, as people would write it: several shapes of the same code, right or with one slip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from fleetssd.toy import phrases
from fleetssd.toy.phrases import FINISHES, MAPPINGS, PREDICATES, Operation
from fleetssd.toy.problems import Pipeline, Problem, Rule, Term

_SLIPS = ("operation", "operation", "constant", "constant", "argument", "syntax", "dropped step")


def solution(problem: Problem, rng: Random) -> str:
    """Write a right solution in a shape that `rng` chooses; ends with a newline."""
    return _function(problem, _render(problem, rng))


def flawed(problem: Problem, rng: Random) -> str:
    """Write a solution with one random slip: most of these fail their cases, a few still pass."""
    slip = rng.choice(_SLIPS)
    task = problem.task
    if slip == "operation":
        task = _other_operation(task, rng)
    if slip == "constant":
        task = _other_constant(task, rng)
        slip = slip if task != problem.task else rng.choice(("argument", "syntax"))
    if slip == "dropped step":
        task = _drop_step(task, rng)
        slip = slip if task != problem.task else "syntax"
    code = solution(replace(problem, task=task), rng)
    if slip == "argument":
        return _other_argument(problem, code, rng)
    return _break_syntax(code, rng) if slip == "syntax" else code


def before(problem: Problem, rng: Random) -> str | None:
    """Write what stands on main before an issue that asks to mend it; None when the function is new."""
    task = problem.task
    if isinstance(task, Rule) or task.wrong is None:
        return None
    return solution(replace(problem, task=replace(task, keep=(task.wrong, *task.keep[1:]))), rng)


def _function(problem: Problem, body: list[str]) -> str:
    lines = [f"def {problem.function}({', '.join(problem.arguments)}):", *("    " + line for line in body)]
    return "\n".join(lines) + "\n"


def _code(table: Mapping[str, Operation], term: Term, value: str) -> str:
    return table[term.key].code.format(v=value, k=term.constant)


def _render(problem: Problem, rng: Random) -> list[str]:
    chance = rng.random()
    if isinstance(problem.task, Pipeline):
        return _render_pipeline(problem.arguments[0], problem.task, chance, rng)
    return _render_rule(problem.arguments, problem.task, chance, rng)


def _render_rule(arguments: tuple[str, ...], rule: Rule, chance: float, rng: Random) -> list[str]:
    if rule.term is None:
        return _render_several(rule.family, arguments, chance)
    x = arguments[0]
    if rule.family in ("cap", "floor"):
        return _render_choice(chance, x, str(rule.term.constant), larger=rule.family == "floor")
    if rule.family == "arithmetic":
        expression = _code(MAPPINGS, rule.term, x)
        name = rng.choice(phrases.RESULT_NAMES)
        return [f"return {expression}"] if chance < 0.6 else [f"{name} = {expression}", f"return {name}"]
    return _render_condition(_code(PREDICATES, rule.term, x), chance)


def _render_several(family: str, arguments: tuple[str, ...], chance: float) -> list[str]:
    if family == "clamp":
        return _render_clamp(chance, *arguments)
    if family == "distance":
        return _render_distance(chance, *arguments)
    return _render_choice(chance, *arguments, larger=family == "larger")


def _render_condition(condition: str, chance: float) -> list[str]:
    if chance < 0.75:
        return [f"return {condition}" if chance < 0.5 else f"return bool({condition})"]
    return [f"if {condition}:", "    return True", "return False"]


def _render_clamp(chance: float, x: str, low: str, high: str) -> list[str]:
    if chance < 0.35:
        return [f"return max({low}, min({high}, {x}))"]
    if chance < 0.6:
        return [f"return min({high}, max({low}, {x}))"]
    if chance < 0.85:
        return [
            f"if {x} < {low}:",
            f"    return {low}",
            f"if {x} > {high}:",
            f"    return {high}",
            f"return {x}",
        ]
    return [f"{x} = max({x}, {low})", f"return min({x}, {high})"]


def _render_distance(chance: float, x: str, other: str) -> list[str]:
    if chance < 0.45:
        return [f"return abs({x} - {other})"]
    if chance < 0.7:
        return [f"return max({x}, {other}) - min({x}, {other})"]
    return [f"d = {x} - {other}", "return d if d > 0 else -d"]


def _render_choice(chance: float, x: str, other: str, *, larger: bool) -> list[str]:
    sign = ">" if larger else "<"
    if chance < 0.4:
        return [f"return {'max' if larger else 'min'}({x}, {other})"]
    if chance < 0.7:
        return [f"return {x} if {x} {sign} {other} else {other}"]
    return [f"if {x} {sign} {other}:", f"    return {x}", f"return {other}"]


def _render_pipeline(rows: str, task: Pipeline, chance: float, rng: Random) -> list[str]:
    v = rng.choice(phrases.LOOP_NAMES)
    condition = " and ".join(_code(PREDICATES, term, v) for term in task.keep)
    value = _code(MAPPINGS, task.change, v) if task.change else v
    each = f"{value} for {v} in {rows}" + (f" if {condition}" if condition else "")
    counted = f"sum(1{each[len(value) :]})" if chance < 0.2 else f"len([{each}])"
    if chance < 0.4:
        return [f"return {_finish(task, _one_line(task.reduction, each, counted))}"]
    name = rng.choice(phrases.RESULT_NAMES)
    if chance < 0.6 or (task.reduction in ("max", "min") and chance < 0.8):
        return [f"{name} = [{each}]", f"return {_finish(task, _reduce(task.reduction, name))}"]
    start, step, end = _loop(task.reduction, name, value)
    inside = [f"    if {condition}:", f"        {step}"] if condition else [f"    {step}"]
    return [start, f"for {v} in {rows}:", *inside, f"return {_finish(task, end)}"]


def _one_line(reduction: str, each: str, counted: str) -> str:
    match reduction:
        case "list":
            return f"[{each}]"
        case "sum":
            return f"sum({each})"
        case "count":
            return counted
    return f"{reduction}(({each}), default=0)"


def _reduce(reduction: str, name: str) -> str:
    match reduction:
        case "list":
            return name
        case "sum" | "count":
            return f"{'sum' if reduction == 'sum' else 'len'}({name})"
    return f"{reduction}({name}, default=0)"


def _loop(reduction: str, name: str, value: str) -> tuple[str, str, str]:
    """Return the line before a loop, the line inside it, and what the result is after it."""
    match reduction:
        case "sum":
            return f"{name} = 0", f"{name} += {value}", name
        case "count":
            return f"{name} = 0", f"{name} += 1", name
    return f"{name} = []", f"{name}.append({value})", _reduce(reduction, name)


def _finish(task: Pipeline, expression: str) -> str:
    return _code(FINISHES, task.finish, expression) if task.finish else expression


def _other_operation(task: Rule | Pipeline, rng: Random) -> Rule | Pipeline:
    if isinstance(task, Pipeline):
        if task.keep and (task.change is None or rng.random() < 0.6):
            return replace(task, keep=(_other_term(PREDICATES, task.keep[0], rng), *task.keep[1:]))
        return replace(task, change=_other_term(MAPPINGS, task.change, rng)) if task.change else task
    if task.term is not None and task.family in ("arithmetic", "predicate"):
        table = MAPPINGS if task.family == "arithmetic" else PREDICATES
        return replace(task, term=_other_term(table, task.term, rng))
    if task.family in ("cap", "floor"):
        return replace(task, family="floor" if task.family == "cap" else "cap")
    pairs = [family for family in ("larger", "smaller", "distance") if family != task.family]
    return task if task.family == "clamp" else replace(task, family=rng.choice(pairs))


def _other_term(table: Mapping[str, Operation], term: Term, rng: Random) -> Term:
    keys = [key for key in table if term.constant is not None or not table[key].takes_constant]
    return replace(term, key=rng.choice(keys))


def _other_constant(task: Rule | Pipeline, rng: Random) -> Rule | Pipeline:
    if isinstance(task, Rule):
        return replace(task, term=_shift(task.term, rng))
    return replace(
        task,
        keep=tuple(term for term in (_shift(term, rng) for term in task.keep) if term),
        change=_shift(task.change, rng),
        finish=_shift(task.finish, rng),
    )


def _shift(term: Term | None, rng: Random) -> Term | None:
    if term is None or not isinstance(term.constant, int) or rng.random() >= 0.7:
        return term
    return replace(term, constant=max(1, term.constant + rng.choice((-1, 1, 2, -2, 10, 3))))


def _drop_step(task: Rule | Pipeline, rng: Random) -> Rule | Pipeline:
    if isinstance(task, Rule) or not task.keep:
        return task
    without = {
        "change": replace(task, change=None),
        "second": replace(task, keep=task.keep[:1]),
        "finish": replace(task, finish=None),
    }
    shorter = [other for other in without.values() if other != task]
    return rng.choice(shorter) if shorter else task


def _other_argument(problem: Problem, code: str, rng: Random) -> str:
    right = problem.arguments[0]
    names = phrases.LIST_NAMES if isinstance(problem.task, Pipeline) else phrases.SCALAR_NAMES
    wrong = rng.choice([name for name in names if name != right])
    head, body = code.split("\n", 1)
    return head + "\n" + re.sub(rf"\b{right}\b", wrong, body, count=rng.choice((1, 0)))


def _break_syntax(code: str, rng: Random) -> str:
    piece = rng.choice((":", ")", "(", "]", "return", "in", "="))
    found = [match.start() for match in re.finditer(re.escape(piece), code)]
    if not found:
        return code[: len(code) // 2]
    start = rng.choice(found)
    return code[:start] + code[start + len(piece) :]
