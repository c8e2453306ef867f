"""Why a pull request does not teach: stable codes, each with the sentence that an operator reads."""

from __future__ import annotations

REASONS = {
    "not_merged": "It was closed without a merge.",
    "author_not_agent": "Its author is none of fleet.agents.",
    "repository_not_watched": "Its repository is none of fleet.repositories.",
    "label_missing": "It has none of fleet.labels.",
    "label_excluded": "It has one of fleet.exclude_labels.",
    "merger_is_agent": "An agent or the server's own user merged it.",
    "merger_is_author": "Its author merged it.",
    "merger_unproven": "Nothing proves that its merger pressed a button: the merge may only have been found in git.",
    "is_revert": "It takes another pull request back.",
    "reverted_later": "It was taken back by a later pull request or commit.",
    "unreadable": "The forge or git failed on it again and again; it is tried now and then.",
    "no_diff": "Neither git nor the forge gave its diff.",
    "head_gone": "Its head commit is gone.",
    "base_unknown": "The commit that it started from cannot be told.",
    "empty_diff": "It changes nothing.",
    "too_large": "Its diff is larger than records.max_diff_bytes.",
    "binary": "It changes a binary file.",
    "symlink": "It changes a symbolic link.",
    "submodule": "It changes a submodule.",
    "mode_only": "It changes file modes and nothing else.",
    "whitespace_only": "It changes white space and nothing else.",
    "lockfile_only": "It changes lock files and nothing else.",
    "vendored": "It changes other people's code and nothing else.",
    "generated": "It changes what programs wrote and nothing else.",
    "licence": "It changes a licence.",
    "excluded_path": "It changes a path of records.exclude_paths.",
    "unsafe_path": "A path in it leaves the repository or reaches git's own files.",
    "not_text": "Its diff is no UTF-8.",
    "format_code": "Solution format `code` needs exactly one changed text file beside the tests.",
    "format_files": "Solution format `files` needs every changed file as text.",
    "no_prompt": "Neither an issue nor its own text says what was asked.",
    "secret": "It holds a secret that cannot be, or by setting is not, redacted.",
    "injection": "A text in it speaks to the model over its reader's head.",
    "near_duplicate": "An earlier record asks the same, or one that examines is like it.",
    "held_out_issue": "Its issue examines, and this answer to it neither teaches nor joins.",
}
"""Codes never change their meaning; new ones are added."""


def explained(code: str) -> str:
    """Return the sentence of a code, or nothing for one of a newer version."""
    return REASONS.get(code, "")
