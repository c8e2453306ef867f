"""Commits on disk: byte for byte as they were committed, and nothing of a repository is run or followed on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleetssd import config
from fleetssd.adapters.git_mirror import GitMirror
from fleetssd.adapters.git_mirror.checkout import entries
from fleetssd.admission import NotAdmittedError
from fleetssd.records import Record
from fleetssd.solutions import File
from tests.contract.forges import Desk, Ground, embedded
from tests.contract.stores import record

PIXEL = b"\x89PNG\r\n\x1a\n\xff"
BLOB = "1" * 40


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Record]]:
    """Merge a change over a commit with a link, a script, a binary file and attributes that ask for much."""
    with embedded(tmp_path_factory.mktemp("forge")) as ground:
        desk = ground.repository()
        (desk.clone / "pixel.png").write_bytes(PIXEL)
        (desk.clone / "run.sh").write_text("exit 0\n")
        (desk.clone / "run.sh").chmod(0o755)
        (desk.clone / "link").symlink_to("/etc/passwd")
        attributes = "*.txt filter=evil text eol=crlf ident\n*.py export-ignore\n"
        base = desk.commit(
            "main", {".gitattributes": attributes, "a.txt": "$Id$ x\n", "sub/app.py": "x = 1\n"}, "Start"
        )
        (desk.clone / "pixel.png").write_bytes(PIXEL * 2)
        head = change(desk, {"sub/app.py": "x = 2\n", "tests/test_app.py": "import app\n"})
        repository = desk.maintainer.get(desk.api)
        yield ground, record(
            desk.pull("work", "no link"), instance=ground.url, repository=desk.place, repository_id=repository["id"],
            base_commit=base, head_commit=head,
        )  # fmt: skip


def change(desk: Desk, files: dict[str, str]) -> str:
    """Commit on a branch what also removes a file; return the commit."""
    desk.git("rm", "-q", "a.txt")
    return desk.commit("work", files, "Change", start="main")


@pytest.fixture
def mirror(merged: tuple[Ground, Record], tmp_path: Path) -> GitMirror:
    """Open mirrors that hold nothing yet."""
    ground, _ = merged
    (tmp_path / "token").write_text(ground.maintainer.token)
    return GitMirror(tmp_path / "mirrors", config.Forge(url=ground.url, token_file=tmp_path / "token"))


def test_a_commit_is_written_as_it_was_committed(
    merged: tuple[Ground, Record], mirror: GitMirror, tmp_path: Path
) -> None:
    """No filter, line end, keyword or export rule applies; modes and links are kept, and git itself stays outside."""
    out = tmp_path / "out"
    out.mkdir()
    size = mirror.check_out(merged[1], out)
    assert (out / "a.txt").read_bytes() == b"$Id$ x\n"
    assert (out / "sub" / "app.py").read_text() == "x = 1\n"
    assert (out / "pixel.png").read_bytes() == PIXEL
    assert (out / "run.sh").stat().st_mode & 0o777 == 0o755
    assert str((out / "link").readlink()) == "/etc/passwd"
    assert not (out / ".git").exists()
    assert not (out / "tests").exists()
    assert size >= len(PIXEL)


def test_the_merged_change_is_read_whole(merged: tuple[Ground, Record], mirror: GitMirror) -> None:
    """Every file that it touches comes as it is after it: text, bytes as surrogate escapes, None where it is gone."""
    found = {whole.path: whole.file for whole in mirror.gold(merged[1])}
    assert found == {
        "a.txt": None,
        "pixel.png": File((PIXEL * 2).decode("utf-8", errors="surrogateescape")),
        "sub/app.py": File("x = 2\n"),
        "tests/test_app.py": File("import app\n"),
    }


def test_a_mirror_that_made_room_is_fetched_again(
    merged: tuple[Ground, Record], mirror: GitMirror, tmp_path: Path
) -> None:
    """What a quota took away comes back from the forge; a commit that the forge lost is a refusal by name."""
    first = mirror.gold(merged[1])
    shutil.rmtree(tmp_path / "mirrors")
    assert mirror.gold(merged[1]) == first
    with pytest.raises(NotAdmittedError) as caught:
        mirror.gold(replace(merged[1], base_commit="1" * 40))
    assert caught.value.code == "tree_gone"


def listing(*lines: tuple[str, str, str]) -> bytes:
    """Return what `ls-tree -r -z` prints."""
    return b"".join(f"{mode} {kind} {BLOB}\t{path}".encode() + b"\0" for mode, kind, path in lines)


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/x", ".git/config", "a/.GIT/hooks/x", "git~1/x", "a\\b", "a//b"]
)
def test_a_path_that_leaves_the_folder_refuses_the_commit(path: str) -> None:
    """A tree that git would not check out either is never written."""
    with pytest.raises(NotAdmittedError) as caught:
        entries(listing(("100644", "blob", "ok.py"), ("100644", "blob", path)))
    assert caught.value.code == "tree_unsafe"


def test_nothing_is_written_through_a_link() -> None:
    """A crafted tree in which a file lies below a link is refused; a submodule is an empty place."""
    with pytest.raises(NotAdmittedError):
        entries(listing(("120000", "blob", "a"), ("100644", "blob", "a/b")))
    assert [entry.path for entry in entries(listing(("160000", "commit", "sub"), ("100644", "blob", "b")))] == ["b"]
