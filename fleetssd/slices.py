"""Which slices a held-out issue belongs to: its labels, its repository, and how hard it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fleetssd.scoring import Scores

HARD, MEDIUM, EASY = "difficulty: hard", "difficulty: medium", "difficulty: easy"


def slices(
    labels: Mapping[str, tuple[str, ...]], repositories: Mapping[str, str], arms: Sequence[Scores]
) -> dict[str, tuple[str, ...]]:
    """Return the slices of every issue; where all issues share a repository or a difficulty, that is no slice."""
    places = {name: f"repository: {repository}" for name, repository in repositories.items()}
    kinds = [_parting(places), _parting(difficulty(arms))]
    return {name: (*own, *(kind[name] for kind in kinds if name in kind)) for name, own in labels.items()}


def difficulty(arms: Sequence[Scores]) -> dict[str, str]:
    """Part the issues at the terciles of their pass rate over all arms together; equal rates stay together.

    By the base's rate alone an issue that had bad luck would be called hard, and any other arm would seem to gain on
    it (regression to the mean). The pooled rate treats the arms alike: of arms that are equally good none gains.
    """
    if not arms or any(arm.ids != arms[0].ids for arm in arms):
        return {}
    solved = np.asarray([arm.c for arm in arms], dtype=np.float64).sum(axis=0)
    rates = solved / np.asarray([arm.n for arm in arms], dtype=np.float64).sum(axis=0)
    if len(rates) == 0:
        return {}
    low, high = np.quantile(rates, (1 / 3, 2 / 3))
    kinds = [HARD if rate <= low else EASY if rate >= high else MEDIUM for rate in rates]
    return dict(zip(arms[0].ids, kinds, strict=True))


def _parting(kind: dict[str, str]) -> dict[str, str]:
    return kind if len(set(kind.values())) > 1 else {}
