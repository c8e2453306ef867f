"""What the forge remembers, as plain records.

Times are whole seconds since the epoch, UTC, as the servers that it stands for keep them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GHOST = -1


@dataclass(slots=True)
class Account:
    """A person, an agent or an organisation; `members` of an organisation maps account ids to a right.

    `password` is the SHA-256 of one, empty for accounts that come by token alone.
    """

    id: int
    login: str
    email: str = ""
    full_name: str = ""
    organization: bool = False
    is_admin: bool = False
    created: int = 0
    members: dict[str, str] = field(default_factory=dict)
    password: str = ""


@dataclass(slots=True)
class Token:
    """An access token by the SHA-256 of its text; `scopes` such as `read:issue`, `all`, `public-only`."""

    id: int
    account: int
    name: str
    digest: str
    scopes: list[str]


@dataclass(slots=True)
class Repository:
    """A repository and its switches; `collaborators` maps account ids to read, write or admin."""

    id: int
    owner: int
    name: str
    created: int
    updated: int
    description: str = ""
    private: bool = False
    default_branch: str = "main"
    archived: bool = False
    fork_of: int | None = None
    has_issues: bool = True
    has_pull_requests: bool = True
    allow_manual_merge: bool = False
    autodetect_manual_merge: bool = False
    delete_branch_after_merge: bool = False
    next_number: int = 1
    collaborators: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Label:
    """A label of one repository."""

    id: int
    repository: int
    name: str
    color: str
    description: str = ""


@dataclass(slots=True)
class Issue:
    """An issue, or the issue side of a pull request (`is_pull`)."""

    id: int
    repository: int
    number: int
    poster: int
    title: str
    body: str
    created: int
    updated: int
    is_pull: bool = False
    closed: bool = False
    closed_at: int | None = None
    locked: bool = False
    comments: int = 0
    content_version: int = 0
    labels: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Pull:
    """The git side of a pull request; `issue` is the id of its issue row, `head` its frozen head commit."""

    id: int
    issue: int
    base_ref: str
    head_ref: str
    head_repository: int | None
    merge_base: str
    head: str
    allow_maintainer_edit: bool = True
    merged: bool = False
    merged_at: int | None = None
    merged_by: int | None = None
    merge_commit: str = ""
    scheduled: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Row:
    """A row of an issue's timeline; plain comments are rows of kind `comment`."""

    id: int
    issue: int
    kind: str
    poster: int
    created: int
    updated: int
    body: str = ""
    old_title: str = ""
    new_title: str = ""
    ref_issue: int | None = None
    ref_comment: int | None = None
    ref_action: str = "none"
    ref_commit: str = ""
    label: int | None = None


@dataclass(slots=True)
class Hook:
    """A webhook of a repository, an organisation or (`owner` 0) the system.

    The secret is kept as it is: whoever signs needs it.
    """

    id: int
    target: str
    owner: int
    url: str
    content_type: str
    secret: str
    events: list[str]
    active: bool
    created: int
    updated: int
    authorization: str = ""
    branch_filter: str = ""


@dataclass(slots=True)
class Status:
    """What a check said of one commit."""

    id: int
    repository: int
    commit: str
    context: str
    status: str
    description: str
    target_url: str
    creator: int
    created: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook request to be made: `payload` is the JSON text that is signed, `kind` the fine event name."""

    hook: Hook
    event: str
    kind: str
    payload: bytes


Record = Account | Token | Repository | Label | Issue | Pull | Row | Hook | Status
