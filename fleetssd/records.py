"""A merged pull request with its issues and its diff becomes a record, or is refused with its reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from fleetssd import config
from fleetssd.diffs import change_refusals, matches
from fleetssd.gitea import IssueText, MergedPull, PullKey, PullRow
from fleetssd.gitea_links import Link
from fleetssd.reverts import is_revert
from fleetssd.texts import filled, neutral

State: TypeAlias = Literal["train", "held_out", "refused"]
Redact: TypeAlias = Callable[[str], tuple[str, int]]
"""Takes the secrets out of a text; returns the clean text and how many there were."""

NEVER = datetime.fromtimestamp(0, UTC)
_SERVERS_OWN = ("gitea-actions", "ghost")


@dataclass(frozen=True, slots=True)
class Record:
    """One merged pull request, ready to teach or to examine, or refused.

    `id` is the dedupe key over (instance, repository id, number, merge commit). `tests` are (path, content) pairs
    of the pull request's own test files at its head; `solution_path` is the one file that solution format `code`
    writes, and empty for `diff`. `merged_at` is the forge's closed_at, in UTC. `split_keys` decide the side: one
    `<repository id>#<number>` an issue, or the pull request's own where it answers none.
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

    @property
    def key(self) -> PullKey:
        """The pull request that this record is of."""
        return PullKey(self.instance, self.repository_id, self.pull)


@dataclass(frozen=True, slots=True)
class PullDiff:
    """A pull request's own change, from git.

    `diff` is the exact output of `git diff`. `files` are (path, content at head) of its text files;
    `merge_parents` are the parents of the merge commit, empty where it could not be had.
    """

    base_commit: str
    head_commit: str
    diff: bytes
    changed_paths: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    merge_parents: tuple[str, ...] = ()


def watched(repository: str, fleet: config.Fleet) -> bool:
    """Tell whether a repository (`owner/name`) matches one of the globs; letter case does not count."""
    return any(fnmatchcase(repository.lower(), glob.lower()) for glob in fleet.repositories)


def is_agent(login: str, fleet: config.Fleet) -> bool:
    """Tell whether an account matches one of the agents' globs; letter case does not count."""
    return any(fnmatchcase(login.lower(), glob.lower()) for glob in fleet.agents)


def refusals_of_row(row: PullRow, fleet: config.Fleet) -> tuple[str, ...]:
    """Say why a pull request cannot teach, as far as its row in a list shows; such a one is never read further."""
    reasons = []
    if not row.merged:
        reasons.append("not_merged")
    if not is_agent(row.author, fleet):
        reasons.append("author_not_agent")
    if not watched(row.repository, fleet):
        reasons.append("repository_not_watched")
    if is_revert(row.title, row.body):
        reasons.append("is_revert")
    return tuple(reasons)


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
    diff = change if isinstance(change, PullDiff) else None
    title, body = _asked(pull, issues)
    texts = _Texts(redact)
    prompt = texts.clean(filled(rules.prompt_template, {"title": title, "body": body}))
    solution, path, tests, unfit = _answer(diff, rules, texts)
    reasons = [*_provenance(pull, links, diff, fleet), *([change] if isinstance(change, str) else ())]
    if diff is not None:
        reasons += change_refusals(diff.diff, diff.changed_paths, rules)
    reasons += unfit if not reasons else []
    reasons += ["no_prompt"] if not prompt.strip() else []
    reasons += ["secret"] if texts.secrets and rules.secrets == "refuse" else []
    keys = tuple(f"{issue.repository_id}#{issue.number}" for issue in issues)
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
        solution="" if reasons else solution,
        solution_path="" if reasons else path,
        tests=() if reasons else tests,
        labels=tuple(map(neutral, pull.labels)),
        diff_sha256=hashlib.sha256(diff.diff).hexdigest() if diff else "",
        changed_paths=tuple(map(neutral, diff.changed_paths)) if diff else (),
        merged_at=pull.closed_at or NEVER,
        split_keys=keys,
    )


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


def _asked(pull: MergedPull, issues: Sequence[IssueText]) -> tuple[str, str]:
    """Return what was asked: the issues' titles and bodies, or the pull request's own where it answers none."""
    if not issues:
        return pull.title, pull.body
    return "; ".join(issue.title for issue in issues), "\n\n".join(issue.body for issue in issues)


def _provenance(pull: MergedPull, links: Sequence[Link], diff: PullDiff | None, fleet: config.Fleet) -> list[str]:
    reasons = []
    if not pull.merged:
        reasons.append("not_merged")
    if not is_agent(pull.author, fleet):
        reasons.append("author_not_agent")
    if not watched(pull.repository, fleet):
        reasons.append("repository_not_watched")
    if is_revert(pull.title, pull.body):
        reasons.append("is_revert")
    if fleet.require_human_merge and (is_agent(pull.merger, fleet) or pull.merger.lower() in _SERVERS_OWN[:1]):
        reasons.append("merger_is_agent")
    if fleet.require_human_merge and pull.merger and pull.merger.lower() == pull.author.lower():
        reasons.append("merger_is_author")
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


def _answer(
    diff: PullDiff | None, rules: config.Records, texts: _Texts
) -> tuple[str, str, tuple[tuple[str, str], ...], list[str]]:
    """Render (solution, its path, tests, refusals) in the configured format."""
    if diff is None or len(diff.diff) > rules.max_diff_bytes:
        return "", "", (), []
    contents = dict(diff.files)
    judged = [path for path in diff.changed_paths if matches(path, rules.test_globs)]
    tests = tuple((path, texts.clean(contents[path], keep="\r\f")) for path in judged if path in contents)
    if rules.solution_format == "diff":
        text = diff.diff.decode("utf-8", errors="replace")
        return texts.clean(text, keep="\r\f"), "", tests, ["not_text"] if "\ufffd" in text else []
    written = [path for path in diff.changed_paths if path not in judged]
    if len(written) != 1 or written[0] not in contents:
        return "", "", tests, ["format_code"]
    return texts.clean(contents[written[0]], keep="\r\f"), written[0], tests, []
