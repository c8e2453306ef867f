"""A merged pull request becomes a record, or is refused with its reasons."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import config
from fleetssd.diffs import PullDiff, is_agent
from fleetssd.gitea import IssueText, MergedPull, PullKey, PullRow
from fleetssd.gitea_links import Link
from fleetssd.records import (
    NEVER,
    Record,
    fingerprint,
    judged_anew,
    make_record,
    record_id,
    refusals_of_row,
    refused_row,
    side,
    watched,
)

MERGED_AT = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
FLEET = config.Fleet(agents=("agent-*",), repositories=("fleet/*",))
RULES = config.Records()
DIFF = b"diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1 @@\n-a\n+b\n"
PULL = MergedPull(
    key=PullKey("http://forge", 2, 9),
    repository="fleet/links",
    clone_url="",
    title="Mend the belt",
    body="It slipped.",
    author="agent-1",
    merger="maintainer",
    merged=True,
    merge_commit="m" * 40,
    merge_base="b" * 40,
    labels=("bug",),
    closed_at=MERGED_AT,
    updated_at="",
)
ISSUE = IssueText("fleet/links", 3, "The belt slips", "Every day.", 2)
LINK = Link("fleet/links", 3, "closed", by_merge=True)
CHANGE = PullDiff("b" * 40, "h" * 40, DIFF, ("src/a.py",), (("src/a.py", "b\n"),), ("p" * 40,))
ROW = PullRow(PULL.key, "fleet/links", "Mend", "", "agent-1", True, ("bug",), MERGED_AT, "t")


def make(
    pull: MergedPull = PULL,
    issues: tuple[IssueText, ...] = (ISSUE,),
    links: tuple[Link, ...] = (LINK,),
    change: PullDiff | str = CHANGE,
    fleet: config.Fleet = FLEET,
    rules: config.Records = RULES,
    redact: Any = lambda text: (text, 0),
) -> Record:
    """Make a record of parts that are right unless they are given."""
    return make_record(pull, issues, links, change, fleet=fleet, rules=rules, redact=redact)


def reasons(**parts: Any) -> tuple[str, ...]:
    """Return the reasons for which a record is refused, checking that it then keeps no text."""
    record = make(**parts)
    assert record.state == "refused"
    assert (record.prompt, record.solution, record.tests) == ("", "", ())
    return record.reasons


def test_a_record_answers_its_issue() -> None:
    """The prompt is the issue's text, the solution the exact diff, the hash over its bytes."""
    record = make()
    assert record.state in ("train", "held_out")
    assert (record.prompt, record.solution) == ("The belt slips\n\nEvery day.", DIFF.decode())
    assert record.diff_sha256 == hashlib.sha256(DIFF).hexdigest()
    assert (record.issues, record.labels, record.split_keys) == (("fleet/links#3",), ("bug",), ("2#3",))
    assert (record.base_commit, record.head_commit, record.merged_at) == ("b" * 40, "h" * 40, MERGED_AT)
    assert record.key == PULL.key


def test_without_an_issue_the_pull_request_asks() -> None:
    """A pull request that closes nothing is its own prompt and its own split key."""
    record = make(issues=(), links=())
    assert (record.prompt, record.issues, record.split_keys) == ("Mend the belt\n\nIt slipped.", (), ("2!9",))


def test_two_issues_make_one_prompt() -> None:
    """A pull request that closes two issues answers both."""
    record = make(issues=(ISSUE, replace(ISSUE, number=4, title="And squeaks", body="At night.")))
    assert record.prompt == "The belt slips; And squeaks\n\nEvery day.\n\nAt night."
    assert record.issues == ("fleet/links#3", "fleet/links#4")


def test_how_sure_a_link_is_stays_with_the_record() -> None:
    """Each issue has its confidence: closed together with the merge, or only declared."""
    other = replace(ISSUE, number=4)
    record = make(issues=(ISSUE, other), links=(LINK, replace(LINK, number=4, confidence="declared", by_merge=False)))
    assert (record.issues, record.confidences) == (("fleet/links#3", "fleet/links#4"), ("closed", "declared"))


def test_weak_links_are_left_out_by_setting() -> None:
    """An issue that was not closed with the merge asks nothing, and yet decides the side: its answer may be here."""
    weak, strong = replace(LINK, number=4, confidence="declared", by_merge=False), LINK
    other, rules = replace(ISSUE, number=4, title="And squeaks"), config.Records(weak_links="drop")
    both = make(issues=(ISSUE, other), links=(strong, weak), rules=rules)
    assert (both.prompt, both.issues, both.split_keys) == (make().prompt, ("fleet/links#3",), ("2#3", "2#4"))
    alone = make(
        issues=(other,), links=(weak,), rules=rules, fleet=FLEET.model_copy(update={"allow_unproven_merger": True})
    )
    assert (alone.prompt, alone.issues, alone.split_keys) == ("Mend the belt\n\nIt slipped.", (), ("2#4",))
    assert alone.confidences == ()


def test_the_template_is_filled_in_one_pass() -> None:
    """Braces in an issue are text; places that the template does not know stay."""
    rules = config.Records(prompt_template="{body} {other}")
    assert make(issues=(replace(ISSUE, body="use {title}"),), rules=rules).prompt == "use {title} {other}"


@pytest.mark.parametrize(
    ("pull", "code"),
    [
        ({"merged": False}, "not_merged"),
        ({"author": "visitor"}, "author_not_agent"),
        ({"author": "Ghost"}, "author_not_agent"),
        ({"repository": "elsewhere/x"}, "repository_not_watched"),
        ({"title": 'Revert "Mend the belt (#3)"'}, "is_revert"),
        ({"body": "This reverts commit 0123456789."}, "is_revert"),
        ({"merger": "Agent-2"}, "merger_is_agent"),
        ({"merger": "gitea-actions"}, "merger_is_agent"),
        ({"merger": "AGENT-1"}, "merger_is_author"),
        ({"merger": ""}, "merger_unproven"),
        ({"merger": "Ghost"}, "merger_unproven"),
    ],
)
def test_who_may_not_teach(pull: dict[str, Any], code: str) -> None:
    """Provenance that does not hold refuses the record, by a stable code."""
    assert code in reasons(pull=replace(PULL, **pull))


def test_a_human_merge_need_not_be_required() -> None:
    """With require_human_merge off, agents may merge their own work."""
    fleet = FLEET.model_copy(update={"require_human_merge": False})
    assert make(pull=replace(PULL, merger="agent-1"), fleet=fleet).reasons == ()


DETECTED = replace(CHANGE, merge_parents=("p" * 40, "q" * 40))


@pytest.mark.parametrize("change", [DETECTED, replace(CHANGE, head_commit="m" * 40), replace(CHANGE, merge_parents=())])
def test_a_merge_that_git_alone_shows_is_unproven(change: PullDiff) -> None:
    """A commit with two parents, the head itself, or one unknown may only have been found: it names nobody for sure."""
    assert reasons(change=change, links=()) == ("merger_unproven",)


def test_what_proves_a_merge() -> None:
    """A server that detects nothing, an issue closed by the merge, a commit only the server makes, or the setting."""
    assert make(change=DETECTED, links=(), pull=replace(PULL, autodetects=False)).reasons == ()
    assert make(change=DETECTED).reasons == ()
    assert make(links=()).reasons == ()
    fleet = FLEET.model_copy(update={"allow_unproven_merger": True})
    assert make(change=DETECTED, links=(), fleet=fleet).reasons == ()
    assert reasons(change=DETECTED, links=(replace(LINK, by_merge=False),)) == ("merger_unproven",)


def test_a_change_that_git_does_not_know_is_refused() -> None:
    """The mirror's reason becomes the record's, without any diff."""
    record = make(change="base_unknown")
    assert (record.state, record.reasons, record.diff_sha256, record.changed_paths) == (
        "refused",
        ("base_unknown",),
        "",
        (),
    )


def test_an_empty_diff_is_never_stored() -> None:
    """A merged pull request without a change teaches nothing."""
    assert reasons(change=replace(CHANGE, diff=b"", changed_paths=(), files=())) == ("empty_diff",)


def test_a_large_diff_is_refused() -> None:
    """Beyond max_diff_bytes nothing of it is kept."""
    assert reasons(rules=config.Records(max_diff_bytes=10)) == ("too_large",)


def test_an_issue_without_text_asks_nothing() -> None:
    """There must be a prompt."""
    assert reasons(issues=(replace(ISSUE, title=" ", body=""),)) == ("no_prompt",)


def test_a_diff_in_another_encoding_is_no_text() -> None:
    """Bytes that are not UTF-8 cannot be a solution."""
    assert reasons(change=replace(CHANGE, diff=DIFF + b"+\xff\n")) == ("not_text",)


def hide(text: str) -> tuple[str, int]:
    """Redact one known secret."""
    return text.replace("hunter2", "<redacted>"), text.count("hunter2")


def test_secrets_are_redacted_everywhere() -> None:
    """Prompt, solution, title and tests lose their secrets."""
    change = replace(
        CHANGE,
        diff=DIFF + b"+hunter2\n",
        changed_paths=("src/a.py", "tests/test_a.py"),
        files=(("tests/test_a.py", "hunter2"),),
    )
    record = make(
        pull=replace(PULL, title="hunter2"), issues=(replace(ISSUE, body="hunter2"),), change=change, redact=hide
    )
    assert "hunter2" not in repr(record)
    assert record.tests == (("tests/test_a.py", "<redacted>"),)


def test_secrets_can_refuse_instead() -> None:
    """With secrets = refuse, one secret refuses the record."""
    rules = config.Records(secrets="refuse")
    assert reasons(issues=(replace(ISSUE, body="hunter2"),), redact=hide, rules=rules) == ("secret",)
    assert make(redact=hide, rules=rules).reasons == ()


def test_hidden_characters_are_shown() -> None:
    """Marks that reorder text cannot hide in what is stored."""
    record = make(
        pull=replace(PULL, title="a\u202eb", labels=("x\x00",)), issues=(replace(ISSUE, body="c\u2066d\ud800"),)
    )
    assert record.title == "a<U+202E>b"
    assert record.labels == ("x<U+0000>",)
    assert record.prompt.endswith("c<U+2066>d<U+D800>")


@pytest.mark.parametrize("kind", ["diff", "files", "code"])
def test_hidden_characters_are_seen_in_solutions(kind: str) -> None:
    """Code keeps its carriage returns and form feeds; what reorders or hides is written out, in every format."""
    head = "diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1 @@\n"
    line = "b\x0c \u202e\u2066\x1b[31m"
    change = replace(CHANGE, diff=f"{head}-a\r\n+{line}\r\n".encode(), files=(("src/a.py", f"{line}\r\n"),))
    record = make(change=change, rules=config.Records.model_validate({"solution_format": kind}))
    assert "b\x0c <U+202E><U+2066><U+001B>[31m\r\n" in record.solution
    assert record.state != "refused"


CODE = config.Records(solution_format="code")


def test_code_is_the_one_file_that_is_no_test() -> None:
    """Format `code` takes the changed file's content at the head; the tests stand beside it."""
    change = replace(
        CHANGE,
        changed_paths=("src/a.py", "tests/test_a.py", "tests/gone_test.py"),
        files=(("src/a.py", "b\r\n"), ("tests/test_a.py", "assert b")),
    )
    record = make(change=change, rules=CODE)
    assert (record.solution_path, record.solution) == ("src/a.py", "b\r\n")
    assert record.tests == (("tests/test_a.py", "assert b"),)


@pytest.mark.parametrize("paths", [("src/a.py", "src/b.py"), ("tests/test_a.py",), ("src/gone.py",)])
def test_code_needs_exactly_one_file(paths: tuple[str, ...]) -> None:
    """Two files, none, or one that is gone at the head do not fit the format."""
    assert reasons(change=replace(CHANGE, changed_paths=paths), rules=CODE) == ("format_code",)


def test_a_row_says_what_it_can() -> None:
    """Whether it merged, who wrote it, where, and whether it takes something back stand in the row."""
    assert refusals_of_row(ROW, FLEET) == ()
    bad = replace(ROW, merged=False, author="x", repository="y/z", title='Revert "a"')
    assert refusals_of_row(bad, FLEET) == ("not_merged", "author_not_agent", "repository_not_watched", "is_revert")


def test_a_refused_row_is_a_record() -> None:
    """It keeps its provenance and its reasons, and no text."""
    record = refused_row(replace(ROW, title="a\x07"), ("not_merged",))
    assert (record.state, record.reasons, record.title, record.merged_at) == (
        "refused",
        ("not_merged",),
        "a<U+0007>",
        MERGED_AT,
    )
    assert refused_row(replace(ROW, closed_at=None), ("not_merged",)).merged_at == NEVER


def test_globs_ignore_case() -> None:
    """Forges compare names without case, so globs do."""
    assert watched("Fleet/X", FLEET)
    assert not watched("fleets/x", FLEET)
    assert is_agent("AGENT-7", FLEET)
    assert not is_agent("", FLEET)


def test_the_id_is_the_dedupe_key() -> None:
    """Another instance, repository, number or merge commit is another record; the same is the same."""
    keys = [PullKey("a", 1, 2), PullKey("b", 1, 2), PullKey("a", 2, 2), PullKey("a", 1, 3)]
    ids = {record_id(key, commit) for key in keys for commit in ("", "m")}
    assert len(ids) == 8
    assert record_id(keys[0], "m") in ids


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_one_held_out_issue_holds_out_the_record(keys: list[str]) -> None:
    """The side of a record follows from the sides of its issues alone, in any order."""
    alone = [side([key], RULES) for key in keys]
    assert side(keys, RULES) == ("held_out" if "held_out" in alone else "train")
    assert side(keys[::-1], RULES) == side(keys, RULES)


def test_the_split_is_keyed_and_near_its_share() -> None:
    """About the configured share is held out, and another key holds out other issues."""
    keys = [f"1#{number}" for number in range(4000)]
    out = {key for key in keys if side([key], RULES) == "held_out"}
    other = {key for key in keys if side([key], config.Records(split_key="other")) == "held_out"}
    assert 700 < len(out) < 900
    assert len(out & other) < len(out) / 2


@pytest.mark.parametrize(
    ("fleet", "code"),
    [
        ({"agents": ("nobody",)}, "author_not_agent"),
        ({"repositories": ("other/*",)}, "repository_not_watched"),
        ({"labels": ("teach*",)}, "label_missing"),
        ({"exclude_labels": ("BUG",)}, "label_excluded"),
    ],
)
def test_new_settings_of_the_fleet_judge_what_is_on_file(fleet: dict[str, Any], code: str) -> None:
    """A record goes with the setting that refuses it, and comes back with the one that did not."""
    record = make()
    changed = FLEET.model_copy(update=fleet)
    assert judged_anew(record, FLEET) is None
    assert judged_anew(record, changed) == (code,)
    refused = replace(record, state="refused", reasons=(code,))
    assert judged_anew(refused, changed) is None
    assert judged_anew(refused, FLEET) == ()


def test_labels_choose_by_globs() -> None:
    """One label of those that are asked for is enough, and letter case does not count."""
    assert judged_anew(make(), FLEET.model_copy(update={"labels": ("B?G", "other")})) is None
    assert refusals_of_row(replace(ROW, labels=()), FLEET.model_copy(update={"labels": ("bug",)})) == ("label_missing",)


def test_other_reasons_stay_whatever_the_fleet_is() -> None:
    """A secret does not go away with a setting; what does not stand at all is nobody's twin."""
    refused = replace(make(), reasons=("secret", "near_duplicate"))
    nobody = FLEET.model_copy(update={"agents": ("nobody",)})
    assert judged_anew(refused, FLEET) is None
    assert judged_anew(refused, nobody) == ("author_not_agent", "secret")


def test_a_merger_may_stop_needing_proof() -> None:
    """With allow_unproven_merger the record may stand; what else is against it stays."""
    unproven = replace(make(), reasons=("merger_unproven", "near_duplicate"))
    trusting = FLEET.model_copy(update={"allow_unproven_merger": True})
    assert judged_anew(unproven, FLEET) is None
    assert judged_anew(unproven, trusting) == ("near_duplicate",)


def test_each_fleet_has_its_fingerprint() -> None:
    """Any setting of it changes the digits; the same settings have the same."""
    assert (
        fingerprint(FLEET)
        == fingerprint(FLEET.model_copy())
        != fingerprint(config.Fleet(agents=("x",), repositories=("o/r",)))
    )
    assert len(fingerprint(FLEET)) == 12
