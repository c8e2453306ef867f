"""A merged pull request with its issues and its diff becomes a record, or is refused with its reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from fleetssd import config
from fleetssd.diffs import PullDiff, change_refusals, is_agent
from fleetssd.gitea import IssueText, MergedPull, PullKey, PullRow, row_of
from fleetssd.gitea_links import Link
from fleetssd.rendering import Solution
from fleetssd.rendering import prompt as written_prompt
from fleetssd.rendering import solution as written_solution
from fleetssd.reverts import is_revert
from fleetssd.texts import injected, neutral

State: TypeAlias = Literal["train", "held_out", "refused"]
Redact: TypeAlias = Callable[[str], tuple[str, int]]
"""Takes the secrets out of a text; returns the clean text and how many there were."""

NEVER = datetime.fromtimestamp(0, UTC)
BY_FLEET = frozenset(
    {
        "author_not_agent",
        "repository_not_watched",
        "label_missing",
        "label_excluded",
        "merger_is_agent",
        "merger_is_author",
    }
)
"""The reasons that depend on the settings of the fleet alone."""
_SERVERS_OWN = ("gitea-actions", "ghost")


@dataclass(frozen=True, slots=True)
class Record:
    """One merged pull request, ready to teach or to examine, or refused.

    `id` is the dedupe key over (instance, repository id, number, merge commit). `tests` are (path, content) pairs
    of the pull request's own test files at its head; `solution_path` is the one file that solution format `code`
    writes, and empty for `diff`. `merged_at` is the forge's closed_at, in UTC. `split_keys` decide the side: one
    `<repository id>#<number>` an issue, or the pull request's own where it answers none. `ties` are the numbers that
    it shares with records that may have to stand on its side; they are there once it is settled. `confidences` say of
    each of `issues` how sure its link is (`closed`, `declared`).
    """

    id: str
    instance: str
    repository_id: int
    repository: str
    pull: int
    state: State
    reasons: tuple[str, ...]
    author: str
    merger: str
    base_commit: str
    head_commit: str
    merge_commit: str
    issues: tuple[str, ...]
    title: str
    prompt: str
    solution: str
    solution_path: str
    tests: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    diff_sha256: str
    changed_paths: tuple[str, ...]
    merged_at: datetime
    split_keys: tuple[str, ...] = ()
    ties: tuple[int, ...] = ()
    confidences: tuple[str, ...] = ()

    @property
    def key(self) -> PullKey:
        """The pull request that this record is of."""
        return PullKey(self.instance, self.repository_id, self.pull)


def watched(repository: str, fleet: config.Fleet) -> bool:
    """Tell whether a repository (`owner/name`) matches one of the globs; letter case does not count."""
    return any(fnmatchcase(repository.lower(), glob.lower()) for glob in fleet.repositories)


def refusals_of_row(row: PullRow, fleet: config.Fleet) -> tuple[str, ...]:
    """Say why a pull request cannot teach, as far as its row in a list shows; such a one is never read further."""
    reasons = [] if row.merged else ["not_merged"]
    reasons += refusals_of_place(row.author, row.repository, row.labels, fleet)
    reasons += ["is_revert"] if is_revert(row.title, row.body) else []
    return tuple(reasons)


def refusals_of_place(author: str, repository: str, labels: Sequence[str], fleet: config.Fleet) -> list[str]:
    """Say why nothing of this author, in this repository, under these labels teaches."""
    reasons = [] if is_agent(author, fleet) else ["author_not_agent"]
    reasons += [] if watched(repository, fleet) else ["repository_not_watched"]
    if fleet.labels and not _labelled(labels, fleet.labels):
        reasons.append("label_missing")
    if _labelled(labels, fleet.exclude_labels):
        reasons.append("label_excluded")
    return reasons


def refusals_of_merger(merger: str, author: str, fleet: config.Fleet) -> list[str]:
    """Say why a merge by this account proves no human's decision."""
    if not fleet.require_human_merge:
        return []
    reasons = ["merger_is_agent"] if is_agent(merger, fleet) or merger.lower() in _SERVERS_OWN[:1] else []
    return reasons + (["merger_is_author"] if merger and merger.lower() == author.lower() else [])


def judged_anew(record: Record, fleet: config.Fleet) -> tuple[str, ...] | None:
    """Return a record's reasons as the fleet's settings give them now; None where they stay as they are.

    A merge that is no longer in need of proof changes the reasons of what was refused for it.
    """
    now = refusals_of_place(record.author, record.repository, record.labels, fleet)
    now += refusals_of_merger(record.merger, record.author, fleet)
    kept = [code for code in record.reasons if code not in BY_FLEET]
    proven = not (fleet.allow_unproven_merger and "merger_unproven" in kept)
    if proven and {*now} == {*record.reasons} - {*kept}:
        return None
    # What does not stand at all is nobody's twin.
    left = {"near_duplicate"} if now else set()
    left |= set() if proven else {"merger_unproven"}
    return tuple(now + [code for code in kept if code not in left])


def fingerprint(fleet: config.Fleet) -> str:
    """Return what tells one fleet's settings from another's: sha256 (hex, 12 digits) of all of them."""
    return hashlib.sha256(fleet.model_dump_json().encode()).hexdigest()[:12]


def _labelled(labels: Sequence[str], globs: Sequence[str]) -> bool:
    return any(fnmatchcase(label.lower(), glob.lower()) for label in labels for glob in globs)


def refused_row(row: PullRow, reasons: Sequence[str]) -> Record:
    """File a pull request that was not read further, with its reasons."""
    return Record(
        id=record_id(row.key, ""),
        instance=row.key.instance,
        repository_id=row.key.repository_id,
        repository=row.repository,
        pull=row.key.number,
        state="refused",
        reasons=tuple(reasons),
        author=row.author,
        merger="",
        base_commit="",
        head_commit="",
        merge_commit="",
        issues=(),
        title=neutral(row.title),
        prompt="",
        solution="",
        solution_path="",
        tests=(),
        labels=tuple(map(neutral, row.labels)),
        diff_sha256="",
        changed_paths=(),
        merged_at=row.closed_at or NEVER,
    )


def make_record(
    pull: MergedPull,
    issues: Sequence[IssueText],
    links: Sequence[Link],
    change: PullDiff | str,
    *,
    fleet: config.Fleet,
    rules: config.Records,
    redact: Redact,
) -> Record:
    """Turn a merged pull request into a record; `issues` are the confirmed ones, `links` their confirmations.

    `change` is its diff, or the reason code why there is none. A refused record keeps its provenance, not its texts.
    """
    sure = {(link.repository, link.number): link.confidence for link in links}
    keys = tuple(f"{issue.repository_id}#{issue.number}" for issue in issues)
    if rules.weak_links == "drop":  # not what was asked, but perhaps what was answered: the keys stay
        issues = [issue for issue in issues if sure.get((issue.repository, issue.number)) == "closed"]
    diff = change if isinstance(change, PullDiff) else None
    texts = _Texts(redact)
    prompt = texts.clean(written_prompt(pull, issues, diff, fleet, rules))
    small = diff is not None and len(diff.diff) <= rules.max_diff_bytes
    answer = written_solution(diff, rules, texts.clean_code) if diff is not None and small else Solution()
    reasons = _provenance(pull, links, diff, fleet)
    reasons += [change] if isinstance(change, str) else change_refusals(change, rules)
    reasons += answer.refusals if not reasons else []
    reasons += _refusals_of_texts(prompt, answer, texts, rules)
    keys = keys or (f"{pull.key.repository_id}!{pull.key.number}",)
    return Record(
        id=record_id(pull.key, pull.merge_commit),
        instance=pull.key.instance,
        repository_id=pull.key.repository_id,
        repository=pull.repository,
        pull=pull.key.number,
        state="refused" if reasons else side(keys, rules),
        reasons=tuple(dict.fromkeys(reasons)),
        author=pull.author,
        merger=pull.merger,
        base_commit=diff.base_commit if diff else "",
        head_commit=diff.head_commit if diff else "",
        merge_commit=pull.merge_commit,
        issues=tuple(f"{issue.repository}#{issue.number}" for issue in issues),
        title=texts.clean(pull.title),
        prompt="" if reasons else prompt,
        solution="" if reasons else answer.text,
        solution_path="" if reasons else answer.path,
        tests=() if reasons else answer.tests,
        labels=tuple(map(neutral, pull.labels)),
        diff_sha256=hashlib.sha256(diff.diff).hexdigest() if diff else "",
        changed_paths=tuple(map(neutral, diff.changed_paths)) if diff else (),
        merged_at=pull.closed_at or NEVER,
        split_keys=keys,
        confidences=tuple(sure.get((issue.repository, issue.number), "") for issue in issues),
    )


def _refusals_of_texts(prompt: str, answer: Solution, texts: _Texts, rules: config.Records) -> list[str]:
    reasons = [] if prompt.strip() else ["no_prompt"]
    said = (prompt, answer.text, *dict(answer.tests).values())
    reasons += ["injection"] if rules.injections == "refuse" and any(map(injected, said)) else []
    reasons += ["secret"] if texts.secrets and rules.secrets == "refuse" else []
    return reasons


def record_id(pull: PullKey, merge_commit: str) -> str:
    """Return the dedupe key: sha256 (hex, 32 digits) over (instance, repository id, number, merge commit)."""
    text = "\n".join((pull.instance, str(pull.repository_id), str(pull.number), merge_commit))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def side(keys: Sequence[str], rules: config.Records) -> State:
    """Place a record by a keyed hash of what it answers: one held-out issue holds it out."""
    return "held_out" if any(_draw(rules.split_key, key) < rules.held_out_share for key in keys) else "train"


def _draw(secret: str, key: str) -> float:
    digest = hashlib.blake2b(key.encode(), key=hashlib.sha256(secret.encode()).digest(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _provenance(pull: MergedPull, links: Sequence[Link], diff: PullDiff | None, fleet: config.Fleet) -> list[str]:
    reasons = [*refusals_of_row(row_of(pull), fleet), *refusals_of_merger(pull.merger, pull.author, fleet)]
    if not fleet.allow_unproven_merger and not _proven(pull, links, diff):
        reasons.append("merger_unproven")
    return reasons


def _proven(pull: MergedPull, links: Sequence[Link], diff: PullDiff | None) -> bool:
    """Tell whether `merger` pressed a button: a merge that was only found in git names whom the commit names.

    What is found in git is the head itself or a commit with two parents, and it closes no issue.
    """
    if not pull.merger or pull.merger.lower() == _SERVERS_OWN[1]:
        return False
    if pull.autodetects is False or any(link.by_merge for link in links):
        return True
    return diff is None or (len(diff.merge_parents) == 1 and pull.merge_commit != diff.head_commit)


class _Texts:
    """Cleans texts and counts the secrets that it took out."""

    def __init__(self, redact: Redact) -> None:
        self.redact, self.secrets = redact, 0

    def clean(self, text: str, *, keep: str = "") -> str:
        """Take out secrets and characters that hide or reorder text."""
        clean, found = self.redact(neutral(text, keep=keep))
        self.secrets += found
        return clean

    def clean_code(self, text: str) -> str:
        """Clean a text in which a carriage return and a form feed are content."""
        return self.clean(text, keep="\r\f")
