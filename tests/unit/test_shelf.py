"""Adapters of a folder, as values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.shelf import Applied, active, aimed, entry, read_applied, scales, served_digest

ROWS = [
    {"id": 0, "path": "/srv/adapters/fleet:v1/adapter.gguf", "scale": 0.0},
    {"id": 1, "path": "fleet:v2/adapter.gguf", "scale": 1.0, "task_name": ""},
    {"id": 2, "path": "/opt/style.gguf", "scale": 0.0},
    {"id": 3, "path": "/srv/adapters/007@fleet:v3/adapter.gguf", "scale": 0.0},
    {"id": 4, "path": "/srv/adapters/008@/adapter.gguf", "scale": 0.0},
]


def test_adapters_are_known_by_their_folder() -> None:
    """The folder of a path names an adapter, less its place's number; a free place or another layout is nobody's."""
    found = [(one.id, one.name, one.scale) for one in read_applied(ROWS)]
    assert found == [(0, "fleet:v1", 0), (1, "fleet:v2", 1), (2, None, 0), (3, "fleet:v3", 0), (4, None, 0)]


@pytest.mark.parametrize("said", [None, {"error": "x"}, [{"id": 0}], [{"id": "x", "path": "p", "scale": 1}], "ok"])
def test_a_reply_of_another_shape_is_corrupt(said: Any) -> None:
    """What is no list of adapters is not read as an empty one."""
    with pytest.raises(Corrupt, match="something else"):
        read_applied(said)


@given(st.lists(st.integers(0, 99), unique=True), st.data())
def test_scales_name_every_adapter_and_apply_one_at_most(ids: list[int], data: st.DataObject) -> None:
    """Every id that the server holds is in the list, for one that is missing could mean anything."""
    held = tuple(Applied(id_, f"v{id_}", 1.0) for id_ in ids)
    wanted = data.draw(st.sampled_from([None, "nope", *(one.name for one in held)]))
    listed = scales(held, wanted)
    assert [row["id"] for row in listed] == ids
    assert [row["scale"] for row in listed] == [float(one.name == wanted) for one in held]


@pytest.mark.parametrize(
    "held",
    [
        (Applied(0, "v1", 1.0), Applied(1, "v2", 1.0)),
        (Applied(0, "v1", 0.5),),
        (Applied(0, None, 1.0),),
    ],
)
def test_adapters_that_nobody_pointed_to_are_refused(held: tuple[Applied, ...]) -> None:
    """Two at once, half of one, and a stranger are no checkpoint."""
    with pytest.raises(Misconfigured, match="at once"):
        active(held)


def test_no_scale_is_the_base() -> None:
    """Without a scale requests get the base; with one they get that adapter."""
    assert active(()) is active((Applied(0, "v1", 0.0),)) is None
    assert active(read_applied(ROWS)) == Applied(1, "fleet:v2", 1.0)


@pytest.mark.parametrize("model", ["a/b", "../x", ".hidden", "", "a,b", "a b", "x" * 200])
def test_a_name_that_is_no_file_name_is_refused(model: str) -> None:
    """Nothing outside the folder, hidden in it, or torn apart by a command line can be named."""
    with pytest.raises(Misconfigured, match="cannot name a folder"):
        entry(model)
    assert entry("fleet-coder:v20261122-0123456789ab") == "fleet-coder:v20261122-0123456789ab"


def test_a_digest_tells_base_adapter_and_template_apart() -> None:
    """Each of the three changes what is served, and is not confused with its neighbour."""
    kinds = [("b", None, ""), ("b", "a", ""), ("b", "a", "t"), ("b", None, "t"), ("ba", None, ""), ("b", "", "")]
    assert len({served_digest(*kind) for kind in kinds}) == len(kinds)


def test_an_alias_is_followed_as_names_are_compared() -> None:
    """Case does not matter and no tag means latest; a name that is no alias is itself."""
    table = {"fleet:latest": "fleet:v1"}
    assert [aimed(table, name) for name in ("Fleet", "fleet:latest", "fleet:v2")] == [
        "fleet:v1",
        "fleet:v1",
        "fleet:v2",
    ]
