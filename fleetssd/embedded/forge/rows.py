"""The JSON shapes of accounts, repositories, issues, labels, hooks and timelines, key by key as servers send them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from fleetssd.embedded.forge import access
from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.model import GHOST, Account, Hook, Issue, Label, Pull, Repository, Row, Status
from fleetssd.embedded.forge.state import State

Json = dict[str, Any]
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class View:
    """Whose eyes the rows are for; `web` is the address people use, `root` is ROOT_URL (both without a slash)."""

    state: State
    caller: Caller
    web: str
    root: str

    def time(self, seconds: int) -> str:
        """Write a time as RFC 3339 in the server's zone."""
        zone = timezone(timedelta(minutes=self.state.quirks.zone_minutes))
        return datetime.fromtimestamp(seconds, zone).isoformat().replace("+00:00", "Z")

    def account(self, account: Account, *, mail: bool = False) -> Json:
        """Show an account; `mail` where the server shows the real address to everybody."""
        mine = account.id == self.caller.id
        host = self.root.partition("://")[2].partition(":")[0]
        hidden = f"{account.id}+{account.login}@noreply.{host}" if account.id != GHOST else ""
        return {
            "id": account.id,
            "login": account.login,
            "login_name": "",
            "source_id": 0,
            "full_name": account.full_name,
            "email": account.email if mine or mail else hidden,
            "avatar_url": self._avatar(account),
            "html_url": f"{self.web}/{account.login}",
            "language": "",
            "is_admin": account.is_admin and mine,
            "last_login": self.time(0) if mine else NEVER,
            "created": self.time(account.created),
            "restricted": False,
            "active": mine,
            "prohibit_login": False,
            "location": "",
            "website": "",
            "description": "",
            "visibility": "public",
            "followers_count": 0,
            "following_count": 0,
            "starred_repos_count": 0,
            "username": account.login,
        }

    def label(self, label: Label) -> Json:
        """Show a label."""
        place = self.state.full_name(self.state.repositories[label.repository])
        return {
            "id": label.id,
            "name": label.name,
            "exclusive": False,
            "is_archived": False,
            "color": label.color,
            "description": label.description,
            "url": f"{self.root}/api/v1/repos/{place}/labels/{label.id}",
        }

    def labels(self, issue: Issue) -> list[Json]:
        """Show an issue's labels, by name."""
        found = [self.state.labels[key] for key in issue.labels if key in self.state.labels]
        return [self.label(label) for label in sorted(found, key=lambda label: label.name)]

    def issue_address(self, issue: Issue) -> str:
        """Return the web address of an issue or pull request."""
        place = self.state.full_name(self.state.repositories[issue.repository])
        return f"{self.web}/{place}/{'pulls' if issue.is_pull else 'issues'}/{issue.number}"

    def issue(self, issue: Issue) -> Json:
        """Show an issue, or a pull request as the issue that it also is."""
        repository = self.state.repositories[issue.repository]
        place = self.state.full_name(repository)
        row: Json = {
            "id": issue.id,
            "url": f"{self.root}/api/v1/repos/{place}/issues/{issue.number}",
            "html_url": self.issue_address(issue),
            "number": issue.number,
            "user": self.account(self.state.account(issue.poster), mail=True),
            "original_author": "",
            "original_author_id": 0,
            "title": issue.title,
            "body": issue.body,
            "ref": "",
            "assets": [],
            "labels": self.labels(issue),
            "milestone": None,
            "assignee": None,
            "assignees": None,
            "state": "closed" if issue.closed else "open",
            "is_locked": issue.locked,
            "comments": issue.comments,
            "created_at": self.time(issue.created),
            "updated_at": self.time(issue.updated),
            "closed_at": None if issue.closed_at is None else self.time(issue.closed_at),
            "due_date": None,
            "time_estimate": 0,
            "pull_request": self._pull_part(issue, self.state.pull_of.get(issue.id)),
            "repository": {
                "id": repository.id,
                "name": repository.name,
                "owner": self.state.account(repository.owner).login,
                "full_name": place,
            },
            "pin_order": 0,
            "content_version": issue.content_version,
        }
        return self._without(row, "time_estimate", "content_version")

    def comment(self, row: Row) -> Json:
        """Show a plain comment."""
        issue = self.state.issues[row.issue]
        return {
            **self._placed(row, issue),
            "user": self.account(self.state.account(row.poster)),
            "original_author": "",
            "original_author_id": 0,
            "body": row.body,
            "assets": [],
            "created_at": self.time(row.created),
            "updated_at": self.time(row.updated),
        }

    def timeline(self, row: Row) -> Json:
        """Show a row of a timeline."""
        state = self.state
        referring = state.issues.get(row.ref_issue or 0)
        comment = state.rows.get(row.ref_comment or 0)
        label = state.labels.get(row.label or 0)
        return {
            **self._placed(row, state.issues[row.issue]),
            "type": row.kind,
            "user": self.account(state.account(row.poster)),
            "body": row.body,
            "created_at": self.time(row.created),
            "updated_at": self.time(row.updated),
            "old_project_id": 0,
            "project_id": 0,
            "old_milestone": None,
            "milestone": None,
            "tracked_time": None,
            "old_title": row.old_title,
            "new_title": row.new_title,
            "old_ref": "",
            "new_ref": "",
            "ref_issue": self.issue(referring) if referring else None,
            "ref_comment": self.comment(comment) if comment else None,
            "ref_action": row.ref_action,
            "ref_commit_sha": row.ref_commit,
            "review_id": 0,
            "label": self.label(label) if label else None,
            "assignee": None,
            "assignee_team": None,
            "removed_assignee": False,
            "resolve_doer": None,
            "dependent_issue": None,
        }

    def repository(self, repository: Repository) -> Json:
        """Show a repository with the caller's permissions."""
        state, place = self.state, self.state.full_name(repository)
        mine = [issue for (where, _), issue in state.by_number.items() if where == repository.id]
        opened = [issue.is_pull for issue in mine if not issue.closed]
        bare, may = state.bare(repository), access.right(state, self.caller, repository)
        parent = state.repositories.get(repository.fork_of or 0)
        owner = state.account(repository.owner)
        row: Json = {
            "id": repository.id,
            "owner": self.account(owner, mail=True),
            "name": repository.name,
            "full_name": place,
            "description": repository.description,
            "empty": not bare.branches(),
            "private": repository.private,
            "fork": repository.fork_of is not None,
            "template": False,
            **({"parent": self.repository(parent)} if parent else {"parent": None} if state.old else {}),
            "mirror": False,
            "size": 0,
            "language": "",
            "languages_url": f"{self.root}/api/v1/repos/{place}/languages",
            "html_url": f"{self.web}/{place}",
            "url": f"{self.root}/api/v1/repos/{place}",
            "link": "",
            "ssh_url": f"git@{self.web.partition('://')[2].partition(':')[0]}:{place}.git",
            "clone_url": f"{self.web}/{place}.git",
            "original_url": "",
            "website": "",
            "stars_count": 0,
            "forks_count": sum(other.fork_of == repository.id for other in state.repositories.values()),
            "watchers_count": 1,
            "branch_count": bare.branches(),
            "open_issues_count": opened.count(False),
            "open_pr_counter": opened.count(True),
            "release_counter": 0,
            "default_branch": repository.default_branch,
            "archived": repository.archived,
            "created_at": self.time(repository.created),
            "updated_at": self.time(repository.updated),
            "archived_at": self.time(0),
            "permissions": {
                "admin": may >= access.ADMIN,
                "push": may >= access.WRITE,
                "pull": may >= access.READ,
            },
            **self._units(repository),
            "avatar_url": "",
            "internal": False,
            "mirror_interval": "",
            "object_format_name": "sha1",
            "mirror_updated": NEVER,
            **({"repo_transfer": None} if state.old else {}),
            "topics": [],
            "licenses": [],
        }
        return self._without(
            row,
            "topics",
            "licenses",
            "has_code",
            "allow_manual_merge",
            "autodetect_manual_merge",
            "branch_count",
        )

    def hook(self, hook: Hook) -> Json:
        """Show a hook; its secret is never shown."""
        row = {
            "id": hook.id,
            "name": "",
            "type": "gitea",
            "branch_filter": hook.branch_filter,
            "config": {"content_type": hook.content_type, "url": hook.url},
            "events": hook.events,
            "authorization_header": hook.authorization,
            "active": hook.active,
            "updated_at": self.time(hook.updated),
            "created_at": self.time(hook.created),
        }
        return self._without(row, "name")

    def status(self, status: Status) -> Json:
        """Show what a check said."""
        place = self.state.full_name(self.state.repositories[status.repository])
        return {
            "id": status.id,
            "status": status.status,
            "target_url": status.target_url,
            "description": status.description,
            "url": f"{self.root}/api/v1/repos/{place}/statuses/{status.commit}",
            "context": status.context,
            "creator": self.account(self.state.account(status.creator)),
            "created_at": self.time(status.created),
            "updated_at": self.time(status.created),
        }

    def _without(self, row: Json, *names: str) -> Json:
        """Leave out what a server of the 1.22 line does not send."""
        if self.state.old:
            for name in names:
                row.pop(name, None)
        return row

    def _avatar(self, account: Account) -> str:
        if account.id == GHOST:
            return f"{self.web}/assets/img/avatar_default.png"
        return f"{self.web}/avatars/{hashlib.md5(account.login.encode(), usedforsecurity=False).hexdigest()}"

    def _placed(self, row: Row, issue: Issue) -> Json:
        address = self.issue_address(issue)
        return {
            "id": row.id,
            "html_url": f"{address}#issuecomment-{row.id}",
            "pull_request_url": address if issue.is_pull else "",
            "issue_url": "" if issue.is_pull else address,
        }

    def _pull_part(self, issue: Issue, pull: Pull | None) -> Json | None:
        if pull is None:
            return None
        return {
            "merged": pull.merged,
            "merged_at": None if pull.merged_at is None else self.time(pull.merged_at),
            "draft": is_draft(issue.title),
            "html_url": self.issue_address(issue),
        }

    def _units(self, repository: Repository) -> Json:
        tracker = {
            "enable_time_tracker": True,
            "allow_only_contributors_to_track_time": True,
            "enable_issue_dependencies": True,
        }
        return {
            "has_code": True,
            "has_issues": repository.has_issues,
            **({"internal_tracker": tracker} if repository.has_issues else {}),
            "has_wiki": True,
            "has_pull_requests": repository.has_pull_requests,
            "has_projects": True,
            "projects_mode": "all",
            "has_releases": True,
            "has_packages": False,
            "has_actions": False,
            "ignore_whitespace_conflicts": False,
            "allow_merge_commits": True,
            "allow_rebase": True,
            "allow_rebase_explicit": True,
            "allow_squash_merge": True,
            "allow_fast_forward_only_merge": True,
            "allow_rebase_update": True,
            "allow_manual_merge": repository.allow_manual_merge,
            "autodetect_manual_merge": repository.autodetect_manual_merge,
            "default_delete_branch_after_merge": repository.delete_branch_after_merge,
            "default_merge_style": "merge",
            "default_allow_maintainer_edit": True,
        }


def is_draft(title: str) -> bool:
    """Tell whether a title marks work in progress."""
    return title.upper().startswith(("WIP:", "[WIP]"))
