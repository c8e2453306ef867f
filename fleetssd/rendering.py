"""How a merged pull request is written as a prompt and as the solution to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fleetssd import config
from fleetssd.diffs import PullDiff, is_agent, matches
from fleetssd.errors import Corrupt
from fleetssd.gitea import Comment, IssueText, MergedPull
from fleetssd.solutions import EXECUTABLE, File, Whole, fenced, heading, parse_diff, render_files
from fleetssd.texts import filled

Clean = Callable[[str], str]
CHARACTERS_A_TOKEN = 4
"""A rough count that needs no tokenizer; code has a little fewer."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A rendered solution: its text, the one path of format `code`, the pull request's tests, and why it is unfit."""

    text: str = ""
    path: str = ""
    tests: tuple[tuple[str, str], ...] = ()
    refusals: list[str] = field(default_factory=list)


def prompt(
    pull: MergedPull, issues: Sequence[IssueText], diff: PullDiff | None, fleet: config.Fleet, rules: config.Records
) -> str:
    """Write what was asked: the issues, or the pull request's own text where it answers none.

    Comments and files go where the template names them, else to its end.
    """
    title = "; ".join(issue.title for issue in issues) if issues else pull.title
    body = "\n\n".join(issue.body for issue in issues) if issues else pull.body
    more = {
        "comments": _comments(_chosen(pull, issues, fleet, rules)),
        "files": _context(diff, rules) if diff is not None else "",
    }
    missing = [f"{{{name}}}" for name, text in more.items() if text and f"{{{name}}}" not in rules.prompt_template]
    template = "\n\n".join([rules.prompt_template, *missing])
    system = f"{rules.system_prompt}\n\n" if rules.system_prompt else ""
    return system + filled(template, {"title": title, "body": body, **more})


def solution(diff: PullDiff, rules: config.Records, clean: Clean) -> Solution:
    """Write the solution in the configured format; `clean` takes secrets and hidden characters out of each text."""
    contents = dict(diff.files)
    judged = [path for path in diff.changed_paths if matches(path, rules.test_globs)]
    tests = tuple((path, clean(contents[path])) for path in judged if path in contents)
    if rules.solution_format == "diff":
        return _as_diff(diff, tests, clean)
    if rules.solution_format == "files":
        return _as_files(diff, tests, clean)
    written = [path for path in diff.changed_paths if path not in judged]
    if len(written) != 1 or written[0] not in contents:
        return Solution(tests=tests, refusals=["format_code"])
    return Solution(clean(contents[written[0]]), written[0], tests)


def _as_diff(diff: PullDiff, tests: tuple[tuple[str, str], ...], clean: Clean) -> Solution:
    text = diff.diff.decode("utf-8", errors="replace")
    if "\ufffd" in text:
        return Solution(clean(text), "", tests, ["not_text"])
    cleaned = clean(text)
    # A secret of several lines takes lines out of a hunk: what is left is no diff any more.
    whole = cleaned.count("\n") == text.count("\n")
    return Solution(cleaned, "", tests, [] if whole else ["secret"])


def _as_files(diff: PullDiff, tests: tuple[tuple[str, str], ...], clean: Clean) -> Solution:
    contents, runs = dict(diff.files), set(diff.executable)
    try:
        patches = parse_diff(diff.diff.decode("utf-8", errors="surrogateescape"))
    except Corrupt:
        return Solution(tests=tests, refusals=["format_files"])
    gone = {patch.old for patch in patches if not patch.copied} - {patch.new for patch in patches}
    if any(path not in contents and path not in gone for path in diff.changed_paths):
        return Solution(tests=tests, refusals=["format_files"])
    deleted = [Whole(path, None) for path in diff.changed_paths if path in gone]
    wholes = [
        Whole(path, File(clean(contents[path]), EXECUTABLE if path in runs else "100644"))
        for path in diff.changed_paths
        if path not in gone
    ]
    return Solution(render_files([*deleted, *wholes]), "", tests)


def _chosen(pull: MergedPull, issues: Sequence[IssueText], fleet: config.Fleet, rules: config.Records) -> list[Comment]:
    """Return the comments to show: by people, and older than the pull request, so that none tells its answer."""
    if rules.comments == "none" or pull.opened_at is None:
        return []
    opened = pull.opened_at
    return [
        comment
        for issue in issues
        for comment in issue.comments
        if comment.at <= opened
        and not is_agent(comment.author, fleet)
        and (rules.comments == "people" or comment.author.lower() == issue.author.lower())
    ]


def _comments(chosen: Sequence[Comment]) -> str:
    return "\n\n".join(f"Comment by {comment.author}:\n\n{comment.body}" for comment in chosen)


def _context(diff: PullDiff, rules: config.Records) -> str:
    """Show the touched files as they were, tests left out, as long as they fit; a file is shown whole or not at all."""
    left = rules.context_tokens * CHARACTERS_A_TOKEN
    shown = []
    for path, text in diff.before:
        part = heading(path) + fenced(text)
        if not matches(path, rules.test_globs) and len(part) <= left:
            shown.append(part)
            left -= len(part)
    return "\n".join(shown)
