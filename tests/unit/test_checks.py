"""The settings of a repository's checks, and which of its hidden files a command names."""

from __future__ import annotations

from fleetssd.checks import checks_for, named_tests
from fleetssd.config import CheckedRepository, Evaluation, Records

WEB = CheckedRepository(
    match="Fleet/web-*", check="npm test", memory_mb=2048, test_globs=("spec/**",), prepare="npm ci"
)
ALL = CheckedRepository(match="*", check="make check")


def test_the_first_glob_that_matches_counts() -> None:
    """What it does not name is the general setting; letter case does not count."""
    general = Evaluation(repositories=(WEB, ALL), cpu_seconds=7)
    web = checks_for(general, Records(), "fleet/WEB-shop")
    assert (web.check, web.limits.memory_bytes, web.limits.cpu_seconds) == ("npm test", 2048 << 20, 7)
    assert (web.tests, web.preparation.command) == (("spec/**",), "npm ci")
    other = checks_for(general, Records(), "fleet/api")
    assert (other.check, other.tests, other.preparation.command) == ("make check", Records().test_globs, "")


def test_guards_are_the_tests_and_what_configures_them() -> None:
    """Tests are guarded always, whatever the guards are set to."""
    found = checks_for(Evaluation(guard_globs=("Makefile",)), Records(test_globs=("t/**",)), "a/b")
    assert found.guards == ("t/**", "Makefile")


def test_a_command_names_files_that_say_test() -> None:
    """Data and helpers below a folder of tests are restored but not run; where no name says test, all are run."""
    paths = ("tests/data.json", "tests/test_a.py", "tests/conftest.py")
    assert named_tests(paths, Records().test_globs) == ("tests/test_a.py",)
    assert named_tests(("spec/a.txt", "spec/b.txt"), ("spec/**",)) == ("spec/a.txt", "spec/b.txt")


def test_what_checks_run_in_is_part_of_them() -> None:
    """Another kind of sandbox or another image is another way to check; an image that is not used is not."""
    kinds = [
        Evaluation(),
        Evaluation(sandbox="podman"),
        Evaluation(sandbox="podman", sandbox_image="example.org/other:1"),
        Evaluation(sandbox_image="example.org/other:1"),
    ]
    found = [checks_for(each, Records(), "a/b") for each in kinds]
    assert found[0] == found[3]
    assert len(set(found)) == 3
