"""Rendered solutions against git itself: applied to the merge base they give exactly the pull request's tree."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd import config
from fleetssd.diffs import PullDiff
from fleetssd.rendering import solution
from fleetssd.solutions import EXECUTABLE, File, apply_diff, apply_files, parse_diff, parse_files

NAMES = st.sampled_from(["a", "b c", "dir/a", "dir/b", 'q"uote', "tab\there", "ünïcode", "back\\slash", "`tick`"])
LINES = st.sampled_from(
    ["one\n", "two\n", "--- three\n", "+++ four\n", "@@ five @@\n", "\n", "```\n", "six\r\n", "\f\n"]
)
TEXTS = st.builds(lambda lines, end: "".join(lines) + end, st.lists(LINES, max_size=30), st.sampled_from(["", "end"]))
TREES = st.dictionaries(NAMES, st.builds(File, TEXTS, st.sampled_from(["100644", EXECUTABLE])), max_size=5)
ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
TELL = ("-r", "--no-color", "--no-ext-diff")


@dataclass
class Bare:
    """A bare repository and an index of its own."""

    path: Path

    def git(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run git."""
        environment = {**ENVIRONMENT, "GIT_INDEX_FILE": str(self.path / "index.test"), "GIT_DIR": str(self.path)}
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            input=data,
            capture_output=True,
            check=True,
            env=environment,
        )
        return done.stdout

    def tree(self, files: dict[str, File]) -> str:
        """Write a tree."""
        (self.path / "index.test").unlink(missing_ok=True)
        rows = []
        for path, file in files.items():
            blob = self.git("hash-object", "-w", "--stdin", data=file.text.encode()).decode().strip()
            rows.append(f"{file.mode} {blob}\t{path}\0".encode())
        self.git("update-index", "-z", "--index-info", data=b"".join(rows))
        return self.git("write-tree").decode().strip()

    def change(self, base: str, head: str, after: dict[str, File]) -> PullDiff:
        """Return what the mirror would tell of a change."""
        diff = self.git("diff-tree", "-p", "-M", *TELL, base, head)
        names = self.git("diff-tree", "--name-only", "--no-renames", "-z", "-r", base, head).decode().split("\0")[:-1]
        files = tuple((name, after[name].text) for name in names if name in after)
        runs = tuple(name for name in names if name in after and after[name].mode == EXECUTABLE)
        return PullDiff(base, head, diff, tuple(names), files, executable=runs)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Make an empty repository."""
    made = Bare(tmp_path_factory.mktemp("round") / "r.git")
    subprocess.run(["git", "init", "-q", "--bare", str(made.path)], check=True, env=ENVIRONMENT)
    return made


def _overlap(files: dict[str, File]) -> bool:
    return any(f"{path}/" in other for path in files for other in files)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=TREES, after=TREES, keep=st.booleans())
def test_a_rendered_solution_gives_the_tree(
    bare: Bare, before: dict[str, File], after: dict[str, File], keep: bool
) -> None:
    """Both formats, applied by us, and the diff, applied by git: the pull request's tree, object for object."""
    after = {**before, **after} if keep else after
    base, head = bare.tree(before), bare.tree(after)
    change = bare.change(base, head, after)
    if not change.diff:
        return
    clean = lambda text: text  # noqa: E731
    diff = solution(change, config.Records(solution_format="diff"), clean)
    files = solution(change, config.Records(solution_format="files", test_globs=()), clean)
    assert (diff.refusals, files.refusals) == ([], [])
    assert bare.tree(apply_diff(before, parse_diff(diff.text))) == head
    assert bare.tree(apply_files(before, parse_files(files.text))) == head
    bare.git("read-tree", base)
    bare.git("apply", "--cached", "-", data=diff.text.encode())
    assert bare.git("write-tree").decode().strip() == head


def test_a_rename_with_an_edit_is_followed(bare: Bare) -> None:
    """Git tells a rename; both formats end with the one file."""
    text = "".join(f"line {n}\n" for n in range(30))
    before, after = {"old.py": File(text, EXECUTABLE)}, {"new.py": File(text.replace("line 3\n", "LINE\n"), EXECUTABLE)}
    base, head = bare.tree(before), bare.tree(after)
    change = bare.change(base, head, after)
    assert b"rename from old.py" in change.diff
    for kind in ("diff", "files"):
        rules = config.Records.model_validate({"solution_format": kind})
        text = solution(change, rules, lambda text: text).text
        got = apply_diff(before, parse_diff(text)) if kind == "diff" else apply_files(before, parse_files(text))
        assert bare.tree(got) == head


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["new.py", "dir/ü b.py", 'q"uote']),
    st.sets(st.integers(0, 29), max_size=8),
    st.booleans(),
    st.sampled_from(["", "end"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_rename_with_edits_gives_the_tree(
    bare: Bare, name: str, edited: set[int], runs: bool, end: str, line_end: str
) -> None:
    """Moved, edited and made executable in one change, with either line end, in both formats."""
    lines = [f"line {n}{line_end}" for n in range(30)]
    after_lines = [line.upper() if n in edited else line for n, line in enumerate(lines)]
    before = {"old.py": File("".join(lines) + end)}
    after = {name: File("".join(after_lines) + end, EXECUTABLE if runs else "100644")}
    base, head = bare.tree(before), bare.tree(after)
    change = bare.change(base, head, after)
    assert b"rename from old.py" in change.diff
    diff = solution(change, config.Records(solution_format="diff"), str)
    files = solution(change, config.Records(solution_format="files", test_globs=()), str)
    assert bare.tree(apply_diff(before, parse_diff(diff.text))) == head
    assert bare.tree(apply_files(before, parse_files(files.text))) == head


def test_bytes_that_are_no_utf8_are_refused_in_both_formats(bare: Bare) -> None:
    """What cannot be written as text exactly is not written at all."""
    old, new = (bare.git("hash-object", "-w", "--stdin", data=data).decode().strip() for data in (b"A\n", b"\xe9\n"))
    trees = []
    for blob in (old, new):
        (bare.path / "index.test").unlink(missing_ok=True)
        bare.git("update-index", "-z", "--index-info", data=f"100644 {blob}\ta.txt\0".encode())
        trees.append(bare.git("write-tree").decode().strip())
    change = bare.change(trees[0], trees[1], {})
    assert solution(change, config.Records(solution_format="diff"), str).refusals == ["not_text"]
    assert solution(change, config.Records(solution_format="files"), str).refusals == ["format_files"]
