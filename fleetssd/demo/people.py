"""The demo's fleet over several repositories: agents, their maintainer, the webhook and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetssd.demo.fleet import Fleet, Work
from fleetssd.ports import Progress
from fleetssd.toy.work import REPOSITORIES, WorkItem

AGENTS = ("agent-1", "agent-2")
STYLES = ("squash", "merge", "rebase", "squash")
"""People merge in several ways; a record must come out the same."""


@dataclass(frozen=True, slots=True)
class People:
    """Everybody who works on the demo's forge."""

    fleets: dict[str, Fleet]
    hook: str
    secret: Path

    @classmethod
    def open(cls, url: str, forge: Path, clones: Path, hook: str, secret: Path) -> People:
        """Log in with the token files that the embedded forge wrote into its folder."""
        tokens = {name: forge / "tokens" / name for name in (*AGENTS, "maintainer")}
        fleets = {name: Fleet(url, name, clones / f"{name.split('/')[1]}.git", tokens) for name in REPOSITORIES}
        return cls(fleets, hook, secret)

    def prepare(self, items: Sequence[WorkItem]) -> None:
        """Make the repositories with what stands on main before the work, their labels and the webhook."""
        for name, fleet in self.fleets.items():
            before = {i.path: i.before for i in items if i.repository == name and i.before is not None}
            fleet.found({"README.md": f"# {name}\n", **before}, description="Small functions with their tests.")
            for label in sorted({label for item in items for label in item.slices}):
                fleet.ask("maintainer", "POST", f"/repos/{name}/labels", {"name": label, "color": "#88aacc"})
            config = {"url": self.hook, "content_type": "json", "secret": self.secret.read_text().strip()}
            body = {"type": "gitea", "config": config, "events": ["pull_request_only"], "active": True}
            fleet.ask("maintainer", "POST", f"/repos/{name}/hooks", body)

    def work(self, items: Sequence[WorkItem], progress: Progress) -> None:
        """Open an issue and a pull request for every item, and merge them."""
        done = 0
        for name, fleet in self.fleets.items():
            mine = [item for item in items if item.repository == name]
            works = [_work(number, item) for number, item in enumerate(mine)]
            issues = fleet.open_issues(works)
            fleet.push(works)
            pulls = fleet.open_pulls(works, issues)
            for item, pull in zip(mine, pulls, strict=True):
                fleet.ask("maintainer", "POST", f"/repos/{name}/issues/{pull}/labels", {"labels": list(item.slices)})
            fleet.merge(works, pulls)
            done += len(mine)
            progress(done, len(items), name)

    def close(self) -> None:
        """Log out."""
        for fleet in self.fleets.values():
            fleet.close()


def _work(number: int, item: WorkItem) -> Work:
    return Work(
        title=item.title,
        body=item.body,
        branch=f"work/{item.problem.function}",
        files={item.path: item.after, item.test_path: item.test},
        message=f"{item.title}\n",
        agent=AGENTS[number % len(AGENTS)],
        style=STYLES[number % len(STYLES)],
    )
