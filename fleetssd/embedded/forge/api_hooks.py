"""API: webhooks of repositories, organisations and the system."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from fleetssd.embedded.forge import access, repositories, webhooks
from fleetssd.embedded.forge.call import Call, Refusal, answer
from fleetssd.embedded.forge.model import Hook


def list_hooks(call: Call) -> Response:
    """List the hooks of a repository or organisation."""
    target, owner = _target(call)
    found = [hook for hook in call.state.hooks.values() if (hook.target, hook.owner) == (target, owner)]
    return call.paged(found, [call.view.hook(hook) for hook in call.page(found)])


def create(call: Call) -> Response:
    """Make a hook; it is off unless `active` says otherwise."""
    target, owner = _target(call)
    body, state = call.json, call.state
    if state.quirks.webhooks_disabled:
        raise Refusal(403, "webhooks disabled by administrator")
    config = body.get("config") or {}
    _check(call, body, config)
    hook = Hook(
        state.next_id(Hook),
        target,
        owner,
        config["url"],
        config["content_type"],
        str(config.get("secret") or ""),
        webhooks.expand(body.get("events") or [], old=state.old),
        bool(body.get("active")),
        state.now(),
        state.now(),
        str(body.get("authorization_header") or ""),
        str(body.get("branch_filter") or ""),
    )
    return answer(call.view.hook(state.add(hook)), 201)


def read(call: Call) -> Response:
    """Show a hook."""
    return answer(call.view.hook(_hook(call)))


def edit(call: Call) -> Response:
    """Change a hook; without `events` it is reset to push, and the secret stays unless it is named."""
    hook, body = _hook(call), call.json
    config = body.get("config") or {}
    hook.url = config.get("url", hook.url)
    hook.content_type = config.get("content_type", hook.content_type)
    hook.secret = config.get("secret", hook.secret)
    hook.events = webhooks.expand(body.get("events") or [], old=call.state.old)
    hook.active = body.get("active", hook.active)
    hook.authorization = body.get("authorization_header", hook.authorization)
    hook.updated = call.state.now()
    call.state.save(hook)
    return answer(call.view.hook(hook))


def delete(call: Call) -> Response:
    """Delete a hook."""
    call.state.drop(_hook(call))
    return Response(status_code=204)


def test(call: Call) -> Response:
    """Send a test delivery: a push, dropped without a word if the hook does not listen to pushes."""
    hook = _hook(call)
    repositories.test_delivery(call.state, call.actor, call.repository(), hook)
    return Response(status_code=204)


def _target(call: Call) -> tuple[str, int]:
    """Return whose hooks these are; raise Refusal (403) for callers who do not own them."""
    if "repo" in call.parts:
        repository = call.repository()
        if access.right(call.state, call.caller, repository) < access.ADMIN:
            raise Refusal(403, "user should be an owner or a collaborator with admin write of a repository")
        return "repository", repository.id
    if "login" in call.parts:
        organization = call.account(call.parts["login"])
        owner = organization.members.get(str(call.actor.id)) == "owner"
        if not owner and not call.actor.is_admin:
            raise Refusal(403, "Must be an organization owner")
        return "organization", organization.id
    return "system", 0


def _hook(call: Call) -> Hook:
    hook = call.state.hooks.get(int(call.parts["id"]))
    if hook is None or (hook.target, hook.owner) != _target(call):
        raise call.missing()
    return hook


def _check(call: Call, body: dict[str, Any], config: dict[str, Any]) -> None:
    if not body.get("type"):
        raise Refusal(422, "[Type]: Required")
    for name in ("url", "content_type"):
        if not config.get(name):
            raise Refusal(422, f"Missing config option: {name}")
    if config["content_type"] not in ("json", "form"):
        raise Refusal(422, "Invalid content type")
    address = urlsplit(config["url"])
    if not call.state.old and not (address.scheme in ("http", "https") and address.netloc):
        raise Refusal(422, "Invalid url")
