"""What a real Gitea sent and answered, read by the forge's pure module: deliveries, keywords, rows, details."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleetssd.errors import Rejected
from fleetssd.gitea import MergedPull, PullKey, items, parse_issue, parse_pull, parse_row
from fleetssd.gitea_hooks import read_delivery
from fleetssd.gitea_links import candidates, references

SAMPLES = Path(__file__).parents[1] / "samples"
DELIVERIES = sorted(
    path for folder in ("gitea", "gitea-1.22") for path in (SAMPLES / folder / "webhooks").glob("*.json")
)
FORMS = json.loads((SAMPLES / "gitea" / "closing_keywords.json").read_text())
PULLS = sorted(path for folder in ("gitea", "gitea-1.22") for path in (SAMPLES / folder / "pulls").glob("*.json"))
MERGES = {"gitea": {"03", "05", "08", "09", "10", "11", "12", "15", "18"}, "gitea-1.22": {"02", "05"}}
UNSIGNED = {"17-no-secret-empty-signature", "06-no-secret-empty-signature", "25-after-302-get-without-body"}


def delivery(path: Path) -> tuple[dict[str, str], bytes, bytes]:
    """Return the headers, the body and the secret of a recorded delivery."""
    told: dict[str, Any] = json.loads(path.read_text())
    return (
        {name.lower(): value for name, value in told["headers"]},
        path.with_suffix(".bin").read_bytes(),
        told["secret"].encode(),
    )


@pytest.mark.parametrize("path", [path for path in DELIVERIES if path.stem not in UNSIGNED], ids=lambda path: path.stem)
def test_a_recorded_delivery_verifies(path: Path) -> None:
    """Its signature holds under its secret, a merge names its pull request, and nothing else names one."""
    headers, body, secret = delivery(path)
    found = read_delivery(headers, body, secret)
    assert (found.pull is not None) == (path.stem[:2] in MERGES[path.parts[-3]])
    assert found.repository.startswith("fleet/")


@pytest.mark.parametrize("path", [path for path in DELIVERIES if path.stem not in UNSIGNED], ids=lambda path: path.stem)
def test_one_flipped_byte_of_a_recorded_delivery_is_refused(path: Path) -> None:
    """Any one byte changed in the body, or another secret, and the delivery is unsigned."""
    headers, body, secret = delivery(path)
    for at in (0, len(body) // 2, len(body) - 1):
        flipped = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(Rejected) as refused:
            read_delivery(headers, flipped, secret)
        assert refused.value.status == 401
    with pytest.raises(Rejected):
        read_delivery(headers, body, secret + b"x")


@pytest.mark.parametrize("path", [path for path in DELIVERIES if path.stem in UNSIGNED], ids=lambda path: path.stem)
@pytest.mark.parametrize("secret", [b"", b"s", b"shared-repo-secret"])
def test_an_unsigned_recorded_delivery_is_refused(path: Path, secret: bytes) -> None:
    """The empty signature of a hook without secret, and a body that a redirect lost, prove nothing under any secret."""
    headers, body, _ = delivery(path)
    if path.stem.startswith("25") and secret == b"s":
        with pytest.raises(Rejected) as refused:  # the signature of the body that is gone
            read_delivery(headers, body, secret)
        assert refused.value.status in (400, 401)
        return
    with pytest.raises(Rejected) as refused:
        read_delivery(headers, body, secret)
    assert refused.value.status == 401


def test_a_redelivery_is_the_same_bytes() -> None:
    """A delivery sent again has a new id and the same digest, so it is kept once."""
    first, second = (
        read_delivery(*delivery(path))
        for path in DELIVERIES
        if path.parts[-3] == "gitea" and path.stem[:2] in ("26", "27")
    )
    assert (first.body_sha256, first.id == second.id) == (second.body_sha256, False)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: repr(form["form"]))
def test_a_recorded_keyword_form_is_read_as_the_server_did(form: dict[str, Any]) -> None:
    """Of the 60 recorded forms each closes, mentions or is nothing, as it was on the server."""
    body = form["form"].replace("{n}", "7")
    pull = MergedPull(
        PullKey("f", 1, 9), "fleet/links", "", "", body, "agent-1", "maintainer", True, "", "", (), None, ""
    )
    found = [reference for reference in references(pull, hosts={"git.fleet.test"}) if reference.number == 7]
    assert bool(found) == bool(form["timeline"])
    assert any(reference.closes for reference in found) == (("pull_ref", "closes") in map(tuple, form["timeline"]))


@pytest.mark.parametrize("server", ["gitea", "gitea-1.22"])
def test_whatever_a_server_closed_is_looked_at(server: str) -> None:
    """Every form that closed on either server is a closing candidate, also with marks around it and in code."""
    forms = json.loads((SAMPLES / server / "closing_keywords.json").read_text())
    closed = [form["form"].replace("{n}", "7") for form in forms if form["closed"]]
    assert len(closed) >= 29
    for body in closed:
        for text in (body, f"- a\n\n    {body}", f"`{body}`", f"| **{body}** |", f"_{body}_", f"1) {body}\r\n"):
            pull = MergedPull(
                PullKey("f", 1, 9), "fleet/links", "", "", text, "agent-1", "maintainer", True, "", "", (), None, ""
            )
            assert ("fleet/links", 7) in {(c.repository.lower(), c.number) for c in candidates(pull) if c.closes}, text


@pytest.mark.parametrize("path", PULLS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_recorded_rows_and_details_agree(path: Path) -> None:
    """The row and the detail of every recorded pull request read as the same pull request; issues read as issues."""
    case = json.loads(path.read_text())
    exchanges = case["exchanges"]
    row = parse_row(json.loads(exchanges["issue_row"]["response"]["body"]), "http://forge")
    detail = parse_pull(json.loads(exchanges["detail"]["response"]["body"]), "http://forge")
    assert row is not None
    assert (row.key, row.repository, row.title, row.author, row.merged, row.closed_at) == (
        detail.key, detail.repository, detail.title, detail.author, detail.merged, detail.closed_at,
    )  # fmt: skip
    assert detail.merge_commit == (case["facts"]["merge_commit"] or "")
    assert detail.merge_base == case["facts"]["merge_base_field"]
    for name, exchange in exchanges.items():
        if name.startswith("issue_fleet"):
            issue = parse_issue(json.loads(exchange["response"]["body"]), "")
            assert issue is not None
            assert f"{issue.repository}#{issue.number}" == name.removeprefix("issue_")


def test_a_recorded_page_in_another_zone_is_read() -> None:
    """A server in Berlin writes offsets; the moments are UTC."""
    body = json.loads((SAMPLES / "gitea" / "api" / "berlin_detail.json").read_text())["response"]["body"]
    detail = json.loads(body)
    assert detail["closed_at"].endswith("+01:00")
    found = parse_pull(detail, "http://forge").closed_at
    assert found is not None
    assert found.isoformat().endswith("+00:00")


def test_recorded_pages_hold_each_row_once() -> None:
    """The recorded sweep of eight pages has 50 rows a page at most, and no pull request twice."""
    keys = []
    for path in sorted((SAMPLES / "gitea" / "api").glob("search_window_page_*.json")):
        rows = items(json.loads(json.loads(path.read_text())["response"]["body"]))
        keys += [row.key for item in rows if (row := parse_row(item, "http://forge")) is not None]
    assert len(keys) == len(set(keys)) > 50
