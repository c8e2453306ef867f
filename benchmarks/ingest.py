"""Measure ingestion: requests of a quiet cycle, and the wall clock of a backfill against a naive client's.

The forge is the embedded one, over real git: 200 repositories with 5 merged pull requests each. The peer asks one
repository after the other, reads each pull request with its own requests and clones the repository anew for each of
its diffs; it does a sample of the repositories and its time is scaled to all. Both write what they read.

What a backfill holds is measured by `benchmarks.ingest_memory`, which this one runs too.

usage: python -m benchmarks.ingest [--repositories 200] [--pulls 5] [--sample 10] [--history 1500]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks import ingest_memory
from fleetssd import wiring
from fleetssd.config import Settings, parse
from fleetssd.operations.ingest import PollSummary, poll_once

GOAL = 5.0
FLAT = ingest_memory.GOAL
ROOT = Path(__file__).parents[1]


@contextmanager
def forge(folder: Path) -> Iterator[str]:
    """Run the embedded forge in a process of its own, and yield its address."""
    command = [sys.executable, "-m", "services.embedded_forge", "--data", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        try:
            yield str(line["url"])
        finally:
            process.terminate()


def git(folder: Path, url: str, token: str, *arguments: str, data: bytes = b"") -> bytes:
    """Run git with a token in its environment."""
    pair = base64.b64encode(f"x:{token}".encode()).decode()
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{url}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
    }
    done = subprocess.run(["git", *arguments], input=data, capture_output=True, env=environment, cwd=folder, check=True)
    return done.stdout


def people(url: str, forge_folder: Path) -> dict[str, httpx.Client]:
    """Return a client for each account."""
    return {
        who: httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"token {token(forge_folder, who)}"},
            timeout=60,
            trust_env=False,
        )
        for who in ("maintainer", "agent-1")
    }


def token(forge_folder: Path, who: str) -> str:
    """Return a seeded token."""
    return (forge_folder / "tokens" / who).read_text().strip()


def fill(url: str, forge_folder: Path, work: Path, repositories: int, pulls: int) -> None:
    """Make repositories whose pull requests each close an issue with a change of a file and a test."""
    clients = people(url, forge_folder)
    for number in range(repositories):
        name = f"r{number:03}"
        _answer(clients["maintainer"].post("/orgs/fleet/repos", json={"name": name}))
        stream = b"".join(
            [_commit("main", {f"src/m{i}.py": f"M = {i}\n" * 20 for i in range(20)}, "")]
            + [
                _commit(
                    f"w{pull}",
                    {f"src/m{pull}.py": f"M = {number * 1000 + pull}\n", f"tests/test_{pull}.py": "assert 1\n"},
                    "main",
                )
                for pull in range(pulls)
            ]
        )
        bare = work / f"{name}.git"
        git(work, url, token(forge_folder, "agent-1"), "init", "-q", "--bare", str(bare))
        git(bare, url, token(forge_folder, "agent-1"), "fast-import", "--quiet", data=stream)
        place = f"{url}/fleet/{name}.git"
        git(bare, url, token(forge_folder, "maintainer"), "push", "-q", place, "refs/heads/main")
        git(bare, url, token(forge_folder, "agent-1"), "push", "-q", place, "refs/heads/w*:refs/heads/w*")
        for pull in range(pulls):
            _merge(clients, f"/repos/fleet/{name}", f"w{pull}", f"Module {pull} of {name} is wrong")
    for client in clients.values():
        client.close()


def _merge(clients: dict[str, httpx.Client], api: str, branch: str, title: str) -> None:
    issue = _answer(clients["maintainer"].post(f"{api}/issues", json={"title": title, "body": f"Mend {title}."}))[
        "number"
    ]
    body = {"title": f"Mend {branch}", "body": f"Closes #{issue}", "head": branch, "base": "main"}
    for _ in range(100):
        made = clients["agent-1"].post(f"{api}/pulls", json=body)
        if made.status_code != 404:  # the server lists fresh branches a moment late
            break
        time.sleep(0.05)
    number = _answer(made)["number"]
    _answer(clients["maintainer"].post(f"{api}/pulls/{number}/merge", json={"Do": "squash"}))


def _answer(response: httpx.Response) -> Any:
    response.raise_for_status()
    return response.json() if response.content else None


def _commit(branch: str, files: dict[str, str], parent: str) -> bytes:
    who = f"agent-1 <agent-1@fleet.test> {int(time.time())} +0000"
    parts = [f"commit refs/heads/{branch}\nauthor {who}\ncommitter {who}\ndata 5\nwork\n\n"]
    parts += [f"from refs/heads/{parent}\n"] if parent else []
    parts += [f"M 100644 inline {path}\ndata {len(text)}\n{text}\n" for path, text in files.items()]
    return "".join(parts).encode()


def ingest(settings: Settings) -> tuple[PollSummary, float, int]:
    """Poll once; return the summary, the seconds and the requests to the API."""
    store, there, mirror = wiring.open_store(settings), wiring.open_forge(settings), wiring.open_mirror(settings)
    requests = [0]
    there.client.client.event_hooks["request"].append(lambda _: requests.__setitem__(0, requests[0] + 1))
    secrets, clock = wiring.open_secrets(settings), wiring.open_clock(settings)
    try:
        start = time.perf_counter()
        found = poll_once(settings, there, mirror, store, secrets, clock.now(), lambda *_: None, wiring.open_sketch())
        return found, time.perf_counter() - start, requests[0]
    finally:
        there.close()
        store.close()


def naive(url: str, secret: str, work: Path, names: list[str]) -> float:
    """Read repositories as a first script would, and return the seconds."""
    start = time.perf_counter()
    with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"token {secret}"}, timeout=60) as client:
        for name in names:
            api = f"/repos/fleet/{name}"
            rows = _answer(client.get(f"{api}/pulls", params={"state": "closed", "page": 1, "limit": 50}))
            for row in rows:
                _naive_pull(client, api, row["number"], f"{url}/fleet/{name}.git", url, secret, work)
    return time.perf_counter() - start


def _naive_pull(client: httpx.Client, api: str, number: int, clone: str, url: str, secret: str, work: Path) -> None:
    detail = _answer(client.get(f"{api}/pulls/{number}"))
    issue = detail["body"].rpartition("#")[2]
    _answer(client.get(f"{api}/issues/{issue}"))
    _answer(client.get(f"{api}/issues/{issue}/timeline"))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        there = Path(folder, "clone")
        git(work, url, secret, "clone", "-q", clone, str(there))
        git(there, url, secret, "fetch", "-q", "origin", f"refs/pull/{number}/head")
        diff = git(there, url, secret, "diff", detail["merge_base"], "FETCH_HEAD")
        (work / f"{api.rpartition('/')[2]}-{number}.diff").write_bytes(diff)


def main() -> int:
    """Fill a forge, measure, and print one JSON object last."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name, value in (("repositories", 200), ("pulls", 5), ("sample", 10), ("history", 1500)):
        options.add_argument(f"--{name}", type=int, default=value)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), given.repositories, given.pulls, given.sample, given.history)


def measure(folder: Path, repositories: int, pulls: int, sample: int, history: int) -> int:
    """Measure in a folder."""
    (folder / "work").mkdir()
    with forge(folder / "forge") as url:
        # All of it happens an hour ago: none of it is in a quiet cycle's window.
        _answer(httpx.post(f"{url}/embedded/quirks", json={"clock_offset": -3600}, timeout=60, trust_env=False))
        start = time.perf_counter()
        fill(url, folder / "forge", folder / "work", repositories, pulls)
        print(f"filled: {repositories * pulls} merges in {time.perf_counter() - start:.1f} s")
        secret = folder / "forge" / "tokens" / "maintainer"
        where = {"data_dir": str(folder / "data"), "forge": {"url": url, "token_file": str(secret)}}
        settings = parse({**where, "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]}})
        names = [f"r{number:03}" for number in range(0, repositories, max(1, repositories // sample))][:sample]
        _warm(settings, folder)
        summary, seconds, requests = ingest(settings)
        _, _, quiet = ingest(settings)
        slow = naive(url, secret.read_text().strip(), folder / "work", names) * repositories / len(names)
    print(f"backfill: {summary.read} pull requests in {seconds:.1f} s, {requests} requests")
    print(f"naive client: {slow:.1f} s, scaled from {len(names)} of {repositories} repositories")
    small, large = ingest_memory.growth(history)
    flat = large / small
    print(f"memory: {small:.0f} MB at most for {history} merges, {large:.0f} MB for {history * ingest_memory.TIMES}")
    taken = summary.train + summary.held_out
    ratio = slow / seconds
    holds = ratio >= GOAL and flat <= FLAT and quiet == 1 and summary.read == repositories * pulls
    print(
        f"records: {taken} taken, {summary.refused} refused, {summary.failed} failed; quiet cycle: {quiet} request(s)"
    )
    claim = f"backfill of {summary.read} merges in {repositories} repositories; a quiet cycle is {quiet} request"
    line = {"claim": claim, "value": round(ratio, 2), "goal": GOAL, "holds": holds}
    print(
        json.dumps(
            {
                **line,
                "peer": "one repository at a time, a clone for each pull request",
                "requests_per_quiet_cycle": quiet,
                "memory_of_4x_history": round(flat, 3),
            }
        )
    )
    return 0 if holds else 1


def _warm(settings: Settings, folder: Path) -> None:
    """Load what a daemon has loaded long before its first poll."""
    empty = settings.model_copy(update={"data_dir": folder / "warm"})
    wiring.open_store(empty).close()
    wiring.open_secrets(settings)("password = 'x1y2z3'")
    wiring.open_sketch()(frozenset({"warm"}))


if __name__ == "__main__":
    sys.exit(main())
