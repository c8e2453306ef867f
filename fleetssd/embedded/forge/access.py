"""Who calls, with which scopes, and what they may do in a repository."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from fleetssd.embedded.forge.model import Account, Repository, Token
from fleetssd.embedded.forge.state import State

NONE, READ, WRITE, ADMIN = 0, 1, 2, 3
_RIGHTS = {"read": READ, "write": WRITE, "admin": ADMIN, "owner": ADMIN}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `account` is None for anonymous callers, `scopes` of an anonymous caller mean nothing."""

    account: Account | None = None
    scopes: tuple[str, ...] = ()
    basic: bool = False

    @property
    def id(self) -> int:
        """Return the account's id, 0 for anonymous callers."""
        return self.account.id if self.account else 0

    @property
    def public_only(self) -> bool:
        """Tell whether the token is limited to public repositories."""
        return "public-only" in self.scopes

    def holds(self, scope: str) -> bool:
        """Tell whether a scope such as `read:issue` is held; write includes read."""
        kind, _, topic = scope.partition(":")
        wanted = {scope, "all"} | ({f"write:{topic}"} if kind == "read" else set())
        return bool(wanted & set(self.scopes))


class BadCredentials(Exception):
    """The Authorization header names a token that nobody has."""


def digest(text: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def identify(state: State, header: str) -> Caller:
    """Read an Authorization header (token, Bearer or Basic with the token on either side).

    A header in another form is anonymous. Raises BadCredentials.
    """
    word, _, value = header.partition(" ")
    if word == "TOKEN" and state.old:
        return Caller()
    if word.lower() in ("token", "bearer") and value and " " not in value:
        return _caller(state, state.by_digest.get(digest(value)), basic=False)
    if word.lower() == "basic":
        return _basic(state, value)
    return Caller()


def right(state: State, caller: Caller, repository: Repository) -> int:
    """Return what the caller may do: NONE, READ, WRITE or ADMIN."""
    public = NONE if repository.private else READ
    account = caller.account
    if account is None:
        return public
    if account.is_admin or account.id == repository.owner:
        return ADMIN
    owner = state.account(repository.owner)
    given = (owner.members.get(str(account.id), ""), repository.collaborators.get(str(account.id), ""))
    return max(public, *(_RIGHTS.get(name, NONE) for name in given))


def _basic(state: State, value: str) -> Caller:
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise BadCredentials from error
    account = state.account_named(name)
    if account and password and account.password == digest(password):
        return Caller(account, ("all",), basic=True)
    token = state.by_digest.get(digest(password)) or state.by_digest.get(digest(name))
    return _caller(state, token, basic=True)


def _caller(state: State, token: Token | None, *, basic: bool) -> Caller:
    if token is None or token.account not in state.accounts:
        raise BadCredentials
    return Caller(state.accounts[token.account], tuple(sorted(token.scopes)), basic)
