"""People, agents, organisations and their tokens; who is there when a forge starts with an empty folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fleetssd.embedded.forge import access
from fleetssd.embedded.forge.model import Account, Token
from fleetssd.embedded.forge.state import State
from fleetssd.errors import Rejected

ADMIN = "fleet-admin"
AGENTS = ("agent-1", "agent-2")
HUMAN = "maintainer"
READER = "fleetssd"
ORGANIZATION = "fleet"
_ALL = ["all"]
_READER = ["read:issue", "read:repository"]


def create(state: State, login: str, *, email: str = "", organization: bool = False) -> Account:
    """Make an account; raise Rejected (422) for a name that is taken."""
    if state.account_named(login) is not None:
        raise Rejected(f"user already exists [name: {login}]", status=422)
    mail = email or ("" if organization else f"{login}@fleet.test")
    number = state.next_id(Account)
    return state.add(Account(number, login, mail, organization=organization, created=state.now()))


def rename(state: State, account: Account, login: str) -> None:
    """Give an account another name; the old one forwards."""
    if state.account_named(login) is not None:
        raise Rejected(f"user already exists [name: {login}]", status=422)
    state.forward(account.login, login)
    account.login = login
    state.save(account)


def delete(state: State, account: Account) -> None:
    """Delete an account: what it wrote stays, by Ghost. Raises Rejected (422) while it owns repositories."""
    if any(repository.owner == account.id for repository in state.repositories.values()):
        raise Rejected("user still has ownership of repositories", status=422)
    for token in [token for token in state.tokens.values() if token.account == account.id]:
        state.drop(token)
    for organization in state.accounts.values():
        if organization.members.pop(str(account.id), None):
            state.save(organization)
    state.drop(account)


def grant(state: State, account: Account, name: str, scopes: list[str]) -> str:
    """Make a token and return its text, which is stored nowhere."""
    text = secrets.token_hex(20)
    state.add(Token(state.next_id(Token), account.id, name, access.digest(text), scopes))
    return text


def seed(state: State) -> None:
    """Fill an empty forge: an administrator, the human, the agents, the product's reader and their organisation.

    Each gets a token in `tokens/<login>`, mode 0600.
    """
    if state.accounts:
        return
    admin = create(state, ADMIN)
    admin.is_admin = True
    people = [create(state, login) for login in (HUMAN, *AGENTS, READER)]
    organization = create(state, ORGANIZATION, organization=True)
    organization.full_name = "Fleet"
    for account, right in zip(people, ("owner", "write", "write", "read"), strict=True):
        organization.members[str(account.id)] = right
    for account in (admin, *people):
        text = grant(state, account, "seed", _READER if account.login == READER else _ALL)
        write_secret(state.folder / "tokens" / account.login, text)
    state.journal.commit()


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
