"""The issue family: a seeded draw gives a problem, its prompt, its meaning and its hidden cases.

easy = one scalar rule; medium = filter or map, then reduce; hard = filter, map, reduce and a last step or a second
condition. Names, constants and phrasings vary; the meaning is exact, so that ten input/output cases can judge code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from fleetssd.toy import phrases
from fleetssd.toy.dialect import HOUSE_MAPPINGS, HOUSE_PREDICATES
from fleetssd.toy.phrases import FINISHES, MAPPINGS, PREDICATES, Operation, Scalar, skewed

Tier = Literal["easy", "medium", "hard"]
TIERS: tuple[Tier, ...] = ("easy", "medium", "hard")
TIER_WEIGHTS = (0.42, 0.34, 0.24)
"""How often each tier occurs in pretraining."""

CASES = 10
"""Hidden cases per problem."""

_FAMILIES = (
    *("arithmetic", "arithmetic", "predicate", "predicate"),
    *("clamp", "larger", "smaller", "distance", "cap", "floor"),
)

Argument = int | list[int]
Answer = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True)
class Term:
    """One operation with its constant: a number, the name of an argument, or nothing."""

    key: str
    constant: int | str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An easy problem: `family` over the scalar arguments, with a term where the family takes one."""

    family: str
    term: Term | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A list problem: keep what satisfies every predicate, change each, reduce, finish.

    `wrong` is the predicate that the code on main uses, when the issue asks to mend it.
    """

    reduction: str
    keep: tuple[Term, ...] = ()
    change: Term | None = None
    finish: Term | None = None
    wrong: Term | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One issue: the function it asks for, what that must do, and the sentence that says so."""

    function: str
    arguments: tuple[str, ...]
    tier: Tier
    task: Rule | Pipeline
    prompt: str
    house: bool

    @property
    def key(self) -> str:
        """Return the prompt without the function's name: equal keys are the same problem, renamed."""
        return self.prompt.replace(f"`{self.function}(", "`F(", 1)


@dataclass(frozen=True, slots=True)
class Case:
    """One hidden case: the arguments and the exact answer, equal in value and in type."""

    arguments: tuple[Argument, ...]
    answer: Answer


def draw(rng: Random, tier: Tier | None = None, *, house: bool = False) -> Problem:
    """Draw one problem; `house` asks for the dialect, which problems without any term cannot speak."""
    tier = tier or rng.choices(TIERS, TIER_WEIGHTS)[0]
    function = rng.choice(phrases.VERBS) + rng.choice(phrases.SUFFIXES)
    arguments, task = _draw_rule(rng) if tier == "easy" else _draw_pipeline(rng, tier)
    prompt = _prompt(rng, function, arguments, task, house=house)
    return Problem(function, arguments, tier, task, prompt, house and _speaks(task))


def cases(problem: Problem) -> tuple[Case, ...]:
    """Return the problem's ten hidden cases: edges around its constants, an empty list, and random ones."""
    rng = Random(hashlib.sha256(problem.prompt.encode()).digest())
    return tuple(
        Case(arguments, answer(problem, arguments))
        for arguments in (_case_arguments(rng, problem, index) for index in range(CASES))
    )


def unnoticed(problem: Problem) -> bool:
    """Tell whether the code that an issue calls wrong passes every hidden case all the same."""
    task = problem.task
    if isinstance(task, Rule) or task.wrong is None:
        return False
    faulty = replace(problem, task=replace(task, keep=(task.wrong, *task.keep[1:])))
    return all(answer(faulty, case.arguments) == case.answer for case in cases(problem))


def answer(problem: Problem, arguments: Sequence[Argument]) -> Answer:
    """Compute what the function must return for `arguments`."""
    bound = dict(zip(problem.arguments, arguments, strict=True))
    if isinstance(problem.task, Pipeline):
        return _run_pipeline(problem.task, arguments[0], bound)
    return _run_rule(problem.task, arguments, bound)


def _speaks(task: Rule | Pipeline) -> bool:
    if isinstance(task, Rule):
        return task.family in ("arithmetic", "predicate")
    return bool(task.keep) or task.change is not None


def _draw_rule(rng: Random) -> tuple[tuple[str, ...], Rule]:
    family = rng.choice(_FAMILIES)
    if family == "clamp":
        return (rng.choice(phrases.SCALAR_NAMES), *rng.choice(phrases.RANGE_NAMES)), Rule(family)
    if family in ("larger", "smaller", "distance"):
        return tuple(rng.sample(phrases.SCALAR_NAMES, 2)), Rule(family)
    name = rng.choice(phrases.SCALAR_NAMES)
    if family in ("cap", "floor"):
        return (name,), Rule(family, Term(family, _constant(rng)))
    table = MAPPINGS if family == "arithmetic" else PREDICATES
    term, extra = _draw_term(rng, table, list(table), named=0.4)
    return (name, *extra), Rule(family, term)


def _draw_pipeline(rng: Random, tier: Tier) -> tuple[tuple[str, ...], Pipeline]:
    name = rng.choice(phrases.LIST_NAMES)
    filters, maps = (True, True) if tier == "hard" else rng.choice(((True, False), (True, False), (False, True)))
    reduction = rng.choice(list(phrases.REDUCTIONS) if filters else ["list", "sum", "max", "min"])
    if filters and maps and reduction == "count":
        reduction = "sum"  # counting changed values is counting values: the change would be untestable
    keep: tuple[Term, ...] = ()
    extra: tuple[str, ...] = ()
    change = finish = wrong = None
    if filters:
        term, extra = _draw_term(rng, PREDICATES, list(PREDICATES), named=0.3)
        keep = (term,)
    if maps:
        change, _ = _draw_term(rng, MAPPINGS, list(MAPPINGS))
    if tier == "hard":
        finish, second = _draw_hard_part(rng, reduction, keep[0])
        keep += second
    if filters and rng.random() < 0.25:
        wrong = _draw_wrong(rng, keep[0])
    return (name, *extra), Pipeline(reduction, keep, change, finish, wrong)


def _draw_hard_part(rng: Random, reduction: str, first: Term) -> tuple[Term | None, tuple[Term, ...]]:
    chance = rng.random()
    finish: Term | None = None
    second: tuple[Term, ...] = ()
    if chance < 0.7 and reduction != "list":
        finish = Term(rng.choice(list(FINISHES)), _constant(rng))
    if chance > 0.6 or reduction == "list":
        term, _ = _draw_term(rng, PREDICATES, [key for key in PREDICATES if key != first.key])
        second = (term,)
    return finish, second


def _draw_wrong(rng: Random, right: Term) -> Term:
    keys = [
        key
        for key, operation in PREDICATES.items()
        if key != right.key and (right.constant is not None or not operation.takes_constant)
    ]
    key = rng.choice(keys)
    return Term(key, right.constant if PREDICATES[key].takes_constant else None)


def _draw_term(
    rng: Random, table: Mapping[str, Operation], keys: Sequence[str], *, named: float = 0.0
) -> tuple[Term, tuple[str, ...]]:
    """Draw a term; with probability `named` its constant is an argument, which is returned beside it."""
    key = rng.choice(keys)
    if not table[key].takes_constant:
        return Term(key), ()
    if rng.random() < named:
        name = rng.choice(phrases.CONSTANT_NAMES)
        return Term(key, name), (name,)
    return Term(key, _constant(rng)), ()


def _constant(rng: Random) -> int:
    return rng.randint(2, 19)


def _prompt(rng: Random, function: str, arguments: tuple[str, ...], task: Rule | Pipeline, *, house: bool) -> str:
    signature = f"`{function}({', '.join(arguments)})`"
    if isinstance(task, Rule):
        wish = _rule_wish(rng, arguments, task, house=house)
    else:
        wish = _pipeline_wish(rng, arguments[0], task, house=house)
        if task.wrong is not None:
            wrong = _say(rng, PREDICATES, {}, task.wrong)  # a wrong reading is always told in plain words
            return rng.choice(
                (
                    f"Fix {signature}: it takes the ones that are {wrong}. It must {wish}.",
                    f"Bug in {signature}: now uses {wrong}. It must {wish}.",
                )
            )
    return rng.choice(
        (f"Implement {signature}: {wish}.", f"Add {signature}: {wish}.", f"{signature} is missing: {wish}.")
    )


def _rule_wish(rng: Random, arguments: tuple[str, ...], rule: Rule, *, house: bool) -> str:
    name = arguments[0]
    if rule.term is not None and rule.family == "arithmetic":
        return f"return `{name}` {_say(rng, MAPPINGS, HOUSE_MAPPINGS if house else {}, rule.term)}"
    if rule.term is not None and rule.family == "predicate":
        opening = rng.choice(("return True when", "tell whether"))
        return f"{opening} `{name}` is {_say(rng, PREDICATES, HOUSE_PREDICATES if house else {}, rule.term)}"
    a, b, c, *_ = (*arguments, "", "")
    constant = rule.term.constant if rule.term else ""
    return rng.choice(phrases.PAIR_PHRASES[rule.family]).format(a=a, b=b, c=c, k=constant)


def _pipeline_wish(rng: Random, name: str, task: Pipeline, *, house: bool) -> str:
    elements = rng.choice(phrases.ELEMENTS)
    wish = f"return {rng.choice(phrases.REDUCTIONS[task.reduction])} the {elements} of `{name}`"
    if task.keep:
        said = [_say(rng, PREDICATES, HOUSE_PREDICATES if house else {}, term) for term in task.keep]
        wish += f" that are {' and '.join(said)}"
    if task.change is not None:
        each = rng.choice((", each ", ", every one "))
        wish += each + _say(rng, MAPPINGS, HOUSE_MAPPINGS if house else {}, task.change)
    if task.finish is not None:
        wish += ", " + rng.choice(FINISHES[task.finish.key].phrases).format(k=task.finish.constant)
    return wish


def _say(rng: Random, table: Mapping[str, Operation], dialect: Mapping[str, str], term: Term) -> str:
    phrase = dialect[term.key] if dialect else skewed(rng, table[term.key].phrases)
    return phrase.format(k=f"`{term.constant}`" if isinstance(term.constant, str) else term.constant)


def _value(term: Term, bound: Mapping[str, Argument]) -> int:
    value = bound[term.constant] if isinstance(term.constant, str) else term.constant or 0
    if isinstance(value, list):
        raise TypeError(f"{term.constant} is a list where a number belongs")
    return value


def _run_rule(rule: Rule, arguments: Sequence[Argument], bound: Mapping[str, Argument]) -> Answer:
    first, *rest = [value for value in arguments if isinstance(value, int)]
    match rule.family:
        case "clamp":
            return max(rest[0], min(rest[1], first))
        case "larger":
            return max(first, *rest)
        case "smaller":
            return min(first, *rest)
        case "distance":
            return abs(first - rest[0])
    if rule.term is None:
        raise ValueError(f"a rule of the family {rule.family} needs a term")
    table = {"cap": FINISHES, "floor": FINISHES, "arithmetic": MAPPINGS, "predicate": PREDICATES}[rule.family]
    return table[rule.term.key].apply(first, _value(rule.term, bound))


def _run_pipeline(task: Pipeline, rows: Argument, bound: Mapping[str, Argument]) -> Answer:
    if not isinstance(rows, list):
        raise TypeError("a list problem takes a list first")
    kept: list[Scalar] = [
        value for value in rows if all(PREDICATES[term.key].apply(value, _value(term, bound)) for term in task.keep)
    ]
    if task.change is not None:
        kept = [MAPPINGS[task.change.key].apply(value, _value(task.change, bound)) for value in kept]
    if task.reduction == "list":
        return kept
    result = {
        "sum": sum(kept),
        "count": len(kept),
        "max": max(kept, default=0),
        "min": min(kept, default=0),
    }[task.reduction]
    return FINISHES[task.finish.key].apply(result, _value(task.finish, bound)) if task.finish else result


def _case_arguments(rng: Random, problem: Problem, index: int) -> tuple[Argument, ...]:
    task = problem.task
    if isinstance(task, Rule) and task.family == "clamp":
        low = rng.randint(-5, 5)
        high = low + rng.randint(1, 9)
        return ((low - 2, low, low + 1, high, high + 3, 0)[index % 6], low, high)
    if isinstance(task, Rule) and task.family in ("larger", "smaller", "distance"):
        return (rng.randint(-9, 9), rng.randint(-9, 9))
    named = [rng.randint(2, 12) for _ in problem.arguments[1:]]
    edges = _constants(task) + named
    near = [edge + step for edge in edges for step in (-1, 0, 1)]
    near += [edge * factor for edge in edges for factor in (1, 2, 3)] + [-3, -2, -1, 0, 1, 2, 7, 30]
    if isinstance(task, Rule):
        return (near[index] if edges and index < 6 else rng.choice(near), *named)
    rows = [rng.choice(near) for _ in range(rng.randint(1, 9))] if index else []
    return (list(near) if index in (1, 2) else rows, *named)


def _constants(task: Rule | Pipeline) -> list[int]:
    terms = (task.term,) if isinstance(task, Rule) else (*task.keep, task.change)
    return [term.constant for term in terms if term is not None and isinstance(term.constant, int)]
