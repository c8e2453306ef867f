"""Held-out problems end to end: merged pull requests of real repositories, verified, and answers to them graded."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fleetssd import wiring
from fleetssd.adapters.store import SqlStore
from fleetssd.admission import Admission
from fleetssd.config import Settings, parse
from fleetssd.operations.admission import Verifier
from fleetssd.operations.evaluate import grade
from fleetssd.operations.ingest import poll_once
from fleetssd.operations.posing import pose
from fleetssd.ports import Completion, Job
from fleetssd.problems import Outcome, Problem
from fleetssd.records import Record
from fleetssd.solutions import File, Whole, render_files
from tests.contract.forges import Desk, embedded

NOW = datetime(2026, 12, 1, 2, tzinfo=UTC)
KIT = {
    "requirements.txt": "pytest\n",
    "src/kit/__init__.py": '"""A kit."""\n\n\ndef double(x):\n    return x\n\n\ndef halve(x):\n    return x / 2\n',
    "tests/test_halve.py": "from kit import halve\n\n\ndef test_halve():\n    assert halve(4) == 2\n",
    "tests/data/cases.txt": "1 2\n",
}
RIGHT = KIT["src/kit/__init__.py"].replace("    return x\n", "    return 2 * x\n")
WRONG = KIT["src/kit/__init__.py"].replace("    return x\n", "    return 3 * x\n")
TEST = (
    "from pathlib import Path\n\nfrom kit import double\n\n\ndef test_double():\n"
    '    for line in (Path(__file__).parent / "data" / "cases.txt").read_text().splitlines():\n'
    "        one, two = map(int, line.split())\n        assert double(one) == two\n"
)
LATER = "what only a later commit holds"
CHEAT = (
    "def pytest_collection_modifyitems(items):\n    items.clear()\n\n\n"
    "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n"
)


@dataclass
class World:
    """A forge with merged work, polled once in each format of a solution."""

    folder: Path
    url: str
    kit: Desk
    plain: Desk
    broken: Desk
    numbers: dict[str, int]

    def settings(self, solution_format: str = "diff", **evaluation: Any) -> Settings:
        """Return the settings: pytest in a prepared environment for one repository, plain scripts for the others."""
        packages = _pytest()
        site = "$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')"
        kit = {
            "match": self.kit.place,
            "check": "python -m pytest -q -p no:cacheprovider",
            "prepare": f"cp -r {' '.join(map(str, packages))} {site} && echo /tmp/work/src > {site}/kit.pth",
            "prepare_network": False,
            "prepare_binds": list(map(str, packages)),
            "lock_files": ["requirements.txt"],
            "wall_seconds": 60,
            "cpu_seconds": 30,
        }
        broken = {"match": self.broken.place, "prepare": "echo no such compiler; exit 3", "prepare_network": False}
        return parse(
            {
                "data_dir": str(self.folder / "data"),
                "database_url": f"sqlite:///{self.folder / solution_format}.sqlite3",
                "forge": {"url": self.url, "token_file": str(self.folder / "token")},
                "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
                "records": {"held_out_share": 0.999999, "solution_format": solution_format},
                "evaluation": {
                    "repeats": 3, "sandbox_workers": 1, "repositories": [kit | {"repeats": 2}, broken], **evaluation,
                },
            }
        )  # fmt: skip

    @contextmanager
    def store(self, settings: Settings) -> Iterator[SqlStore]:
        """Open a database in which everything that was merged is on file."""
        forge, mirror, store = wiring.open_forge(settings), wiring.open_mirror(settings), wiring.open_store(settings)
        try:
            poll_once(settings, forge, mirror, store, lambda text: (text, 0), NOW, lambda *_: None)
            yield store
        finally:
            store.close()
            forge.close()

    def verify(self, settings: Settings, store: SqlStore) -> list[Admission]:
        """Verify what is due."""
        grounds = wiring.open_grounds(settings)

        @contextmanager
        def sandbox() -> Iterator[Any]:
            opened = wiring.open_sandbox(settings)
            try:
                yield opened
            finally:
                opened.close()

        return Verifier(settings, store, grounds, sandbox, lambda: NOW, lambda *_: None).verify()

    def record(self, store: SqlStore, name: str) -> Record:
        """Return the record of a merged pull request."""
        place, number = {"feature": self.kit, "untested": self.kit}.get(name, self.plain).place, self.numbers[name]
        return next(r for r in store.records() if (r.repository, r.pull) == (place, number))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Merge a feature with its tests, one without, and tests that prove nothing in each of the ways there are."""
    folder = tmp_path_factory.mktemp("held-out")
    with embedded(folder / "forge") as ground:
        (folder / "token").write_text(ground.maintainer.token)
        kit, plain, broken = ground.repository(), ground.repository(), ground.repository()
        world = World(folder, ground.url, kit, plain, broken, {})
        start(kit, KIT)
        start(plain, {"app.py": "one = 1\n"})
        merged = world.numbers
        feature = {"src/kit/__init__.py": RIGHT, "tests/test_double.py": TEST, "tests/data/cases.txt": "1 2\n2 4\n"}
        merged["feature"] = merge(kit, "Doubling does not double", feature)
        merged["untested"] = merge(kit, "Words are missing from the kit", {"src/kit/words.py": "WORDS = ['a', 'b']\n"})
        merge(kit, "Keep the plans of next month", {"plans.txt": LATER})
        merged["flaky"] = merge(plain, "Two is missing", script("two", 2, "app.two and os.getpid() % 2"))
        merged["passes"] = merge(plain, "Write three down", {"notes.txt": "3\n", **judged("three", "app.one")})
        merged["fails"] = merge(plain, "Say four", script("four", 4, "app.four == 5"))
        merged["script"] = merge(plain, "Five, and a script", script("five", 5, "app.five"))
        merge(broken, "Six", {"six.py": "six = 6\n", "tests/test_six.py": "import six\n"})
        yield world


def script(name: str, value: int, claim: str) -> dict[str, str]:
    """Return an app that has got one more name, and a script that claims something."""
    names = ("one", "two", "four", "five")
    lines = [f"{known} = {number}\n" for number, known in zip((1, 2, 4, 5), names, strict=True) if number <= value]
    return {"app.py": "".join(lines), **judged(name, claim)}


def judged(name: str, claim: str) -> dict[str, str]:
    """Return a test script by its path."""
    return {f"tests/test_{name}.py": f"import os, sys\nsys.path.insert(0, '.')\nimport app\nassert {claim}\n"}


def _pytest() -> list[Path]:
    """Return where pytest and what it needs is installed."""
    names = {
        file.parts[0]
        for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
        for file in metadata.files(name) or ()
        if file.parts[0] not in ("..", "__pycache__")
    }
    return [Path(sysconfig.get_path("purelib"), name) for name in sorted(names)]


def start(desk: Desk, files: dict[str, str]) -> None:
    """Put files on main."""
    desk.git("fetch", "-q")
    desk.commit("main", files, "Start")


def merge(desk: Desk, title: str, files: dict[str, str]) -> int:
    """Let the agent answer an issue and the maintainer merge it; return the pull request's number."""
    issue = desk.issue(title)
    desk.git("fetch", "-q")
    desk.commit(f"work-{issue}", files, title)
    number = desk.pull(f"work-{issue}", f"Closes #{issue}", title=title)
    assert desk.merge(number, "squash").status_code == 200
    return number


@dataclass
class Examined:
    """The verified problem of the feature in one format, and what grades answers to it."""

    settings: Settings
    problem: Problem
    gold: str

    def grade(self, *texts: str) -> list[Outcome]:
        """Grade answers."""
        sandbox = wiring.open_sandbox(self.settings)
        try:
            return grade([self.problem] * len(texts), [Completion(text, "stop", 1) for text in texts], sandbox)
        finally:
            sandbox.close()


@pytest.fixture(scope="module", params=["diff", "files"])
def feature(world: World, request: pytest.FixtureRequest) -> Examined:
    """Pose the feature's problem."""
    settings = world.settings(request.param)
    with world.store(settings) as store:
        record = world.record(store, "feature")
    return Examined(settings, pose(record, settings, wiring.open_grounds(settings)), record.solution)


@pytest.fixture(scope="module")
def verified(world: World) -> dict[str, Admission]:
    """Verify everything once."""
    settings = world.settings()
    with world.store(settings) as store:
        return {admission.record: admission for admission in world.verify(settings, store)}


def test_each_record_is_admitted_or_refused_with_its_reason(world: World, verified: dict[str, Admission]) -> None:
    """What fails before and passes after examines; no tests is weaker evidence; all else is refused by name."""
    with world.store(world.settings()) as store:
        found = store.admissions()
        assert found == verified
        names = {r.id: f"{r.repository.rpartition('-')[2]} {r.title}" for r in store.records("held_out")}
        told = {names[record].partition(" ")[2]: (a.kind, a.code) for record, a in found.items()}
        assert told == {
            "Doubling does not double": ("executed", "verified"),
            "Words are missing from the kit": ("reference", "no_tests"),
            "Keep the plans of next month": ("reference", "no_tests"),
            "Two is missing": ("refused", "flaky"),
            "Write three down": ("refused", "passes_before"),
            "Say four": ("refused", "gold_fails"),
            "Five, and a script": ("executed", "verified"),
            "Six": ("refused", "prepare_failed"),
        }
        failed = next(a for a in found.values() if a.code == "prepare_failed")
        assert "exit status 3" in failed.detail
        assert "no such compiler" in failed.detail


@pytest.mark.usefixtures("verified")
def test_a_verdict_stands_until_its_checks_change(world: World) -> None:
    """A second look verifies only what was not settled; another check command verifies its own repository again."""
    settings = world.settings()
    with world.store(settings) as store:
        assert [a.code for a in world.verify(settings, store)] == ["prepare_failed"]
        other = world.settings(check="python -B {test}")
        again = {a.record for a in world.verify(other, store)}
        held = {r.id for r in store.records("held_out") if r.repository != world.kit.place}
        assert again == held


def test_a_right_answer_passes_and_a_wrong_one_fails(feature: Examined) -> None:
    """The merged change itself and another right one pass; one that is applied and wrong fails on its assertion."""
    wanted, right, wrong = feature.grade(feature.gold, answer(feature, RIGHT), answer(feature, WRONG))
    assert (wanted.passed, right.passed, wrong.passed) == (True, True, False)
    assert "assert 3 == 2" in wrong.detail
    assert not any(outcome.fault for outcome in (wanted, right, wrong))


def test_an_answer_cannot_bring_its_own_tests(feature: Examined) -> None:
    """A wrong answer that rewrites the hidden test, its data or what pytest collects fails all the same."""
    texts = [
        answer(feature, WRONG, {"tests/test_double.py": "def test_double():\n    pass\n"}),
        answer(feature, WRONG, {"conftest.py": CHEAT}),
        answer(feature, WRONG, {"tests/conftest.py": CHEAT, "pytest.ini": "[pytest]\naddopts = --co\n"}),
        answer(feature, WRONG, {".pytest.ini": "[pytest]\naddopts = --co\n"}),
        answer(feature, WRONG, {"cheat.py": CHEAT, "cheat-1.dist-info/entry_points.txt": "[pytest11]\nc = cheat\n"}),
    ]
    assert [(o.passed, o.fault) for o in feature.grade(*texts)] == [(False, False)] * len(texts)


def test_a_malformed_answer_fails_with_its_reason(feature: Examined) -> None:
    """What cannot be read or applied is a failed answer, never an error and never the sandbox's fault."""
    texts = {
        "": "empty answer",
        "I cannot do that.": "in the answer",
        answer(feature, RIGHT, {"../../out.py": "x = 1\n"}): "no path inside the repository",
        answer(feature, RIGHT, {".git/hooks/post-checkout": "x\n"}): "no path inside the repository",
        answer(feature, RIGHT, {"src/kit/__init__.py/deep.py": "x = 1\n"}): "does not apply",
        answer(feature, None, {"tests/test_double.py": "x = 1\n"}): "nothing but tests",
    }
    if feature.problem.format == "diff":
        diff = answer(feature, RIGHT)
        texts |= {
            diff.replace("-    return x\n", "-    return nothing\n"): "does not apply",
            diff.replace("@@ -1", "@@ -1,99"): "bad diff",
            _new("link", "/etc/passwd\n").replace("100644", "120000"): "mode 120000",
        }
    outcomes = feature.grade(*texts)
    assert [(o.passed, o.fault) for o in outcomes] == [(False, False)] * len(texts)
    assert [text for text, o in zip(texts.values(), outcomes, strict=True) if text not in o.detail] == []


def test_a_run_sees_the_base_commit_and_nothing_later(feature: Examined) -> None:
    """Neither git, nor a later commit, nor the merged solution is to be found anywhere in the sandbox."""
    script = (
        f"test -f src/kit/__init__.py && test ! -e .git && test ! -e src/kit/words.py"
        f" && ! grep -rqs '{LATER}' /tmp /tree /env/bin && ! grep -rqs 'return 2 [*] x' /tmp/work/src /tree"
    )
    sandbox = wiring.open_sandbox(feature.settings)
    try:
        job = Job("1", (), ("sh", "-c", script), surroundings=feature.problem.surroundings)
        (found,) = sandbox.run([job], lambda *_: None)
    finally:
        sandbox.close()
    assert (found.passed, found.detail) == (True, "")


def test_a_record_without_tests_is_compared_with_the_merged_change(world: World) -> None:
    """The same syntax tree is the same answer; other names are not, though they may be right."""
    settings = world.settings()
    with world.store(settings) as store:
        record = world.record(store, "untested")
    problem = pose(record, settings, wiring.open_grounds(settings))
    same = Examined(settings, replace(problem, format="files"), "")
    texts = [
        render_files([Whole("src/kit/words.py", File("# words\nWORDS = [\n    'a',\n    'b',\n]\n"))]),
        render_files([Whole("src/kit/words.py", File("WORDS = ('a', 'b')\n"))]),
    ]
    assert [outcome.passed for outcome in same.grade(*texts)] == [True, False]


def answer(feature: Examined, code: str | None, others: dict[str, str] | None = None) -> str:
    """Write an answer as a model would: prose around new content for the module, and further files."""
    files = {**({"src/kit/__init__.py": code} if code else {}), **(others or {})}
    if feature.problem.format == "files":
        return "Here it is:\n\n" + render_files([Whole(path, File(text)) for path, text in files.items()])
    old = KIT["src/kit/__init__.py"]
    parts = [
        (_rewritten(path, old, text) if text and path == "src/kit/__init__.py" else _new(path, text))
        for path, text in files.items()
    ]
    return "Here it is:\n\n```diff\n" + "".join(parts) + "```\nThat should do.\n"


def _rewritten(path: str, old: str, new: str) -> str:
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    body = "".join(f" {a}" if a == b else f"-{a}+{b}" for a, b in zip(before, after, strict=True))
    return f"--- a/{path}\n+++ b/{path}\n@@ -1,{len(before)} +1,{len(after)} @@\n{body}"


def _new(path: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    body = "".join(f"+{line}" for line in lines)
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1,{len(lines)} @@\n{body}"
