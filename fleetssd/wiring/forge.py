"""The forge, its webhooks and mirrors, and what its records are read and told with."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.ports import Hooks, Issues, Mirror
from fleetssd.records import Redact
from fleetssd.twins import Sketch

if TYPE_CHECKING:
    from fleetssd.adapters.gitea_http import GiteaForge
    from fleetssd.adapters.retaindb import RetainDb


def open_forge(settings: Settings) -> GiteaForge:
    """Return the forge, authenticated by the token file."""
    from fleetssd.adapters.gitea_http import GiteaForge  # noqa: PLC0415

    return GiteaForge(settings.forge, settings.fleet)


def open_hooks(settings: Settings, token_file: Path | None) -> AbstractContextManager[Hooks]:
    """Open the forge's webhooks with the token of that file, or the daemon's own, and close them with the block."""
    from fleetssd.adapters.gitea_admin import GiteaHooks  # noqa: PLC0415
    from fleetssd.adapters.gitea_http import read_token  # noqa: PLC0415

    return closing(GiteaHooks(settings.forge.url, read_token(token_file or settings.forge.token_file)))


def open_issues(settings: Settings, token_file: Path | None) -> AbstractContextManager[Issues]:
    """Open the forge's issues with the token of that file, or the daemon's own, and close them with the block."""
    from fleetssd.adapters.gitea_admin import GiteaIssues  # noqa: PLC0415
    from fleetssd.adapters.gitea_http import read_token  # noqa: PLC0415

    return closing(GiteaIssues(settings.forge.url, read_token(token_file or settings.forge.token_file)))


def read_webhook_secret(settings: Settings) -> str:
    """Return the webhook's secret. Raises Misconfigured where there is none."""
    from fleetssd.web.webhook import read_secret  # noqa: PLC0415

    try:
        secret = read_secret(settings.forge.webhook_secret_file)
        if secret:
            return secret.decode()
    except UnicodeDecodeError:
        raise Misconfigured("the webhook secret is not text", hint="Write letters and digits into its file.") from None
    raise Misconfigured(
        "no webhook secret is configured",
        hint="Write one into a file (openssl rand -hex 32) and name it in forge.webhook_secret_file.",
    )


def deliveries_seen(settings: Settings) -> dict[str, int] | None:
    """Return how many deliveries the running daemon took and turned away; None where it is not up."""
    from fleetssd.adapters.daemon_http import deliveries_seen as ask  # noqa: PLC0415

    return ask(settings.web.host, settings.web.port)


def open_mirror(settings: Settings) -> Mirror:
    """Return the git mirrors in the data folder."""
    from fleetssd.adapters.git_mirror import GitMirror  # noqa: PLC0415

    return GitMirror(settings.data_dir / "mirrors", settings.forge)


def open_secrets(settings: Settings) -> Redact:
    """Return what takes secrets out of texts."""
    from fleetssd.adapters.secrets import DetectSecrets  # noqa: PLC0415

    return DetectSecrets(settings.records.secret_patterns)


def open_sketch() -> Sketch:
    """Return what finds near-duplicates without comparing everything with everything."""
    from fleetssd.adapters.minhash import buckets  # noqa: PLC0415

    return buckets


def open_memory(settings: Settings) -> RetainDb | None:
    """Return the memory server that is told of merged records; None where that is off."""
    if not settings.mirror.enabled:
        return None
    from fleetssd.adapters.retaindb import RetainDb  # noqa: PLC0415

    return RetainDb(settings.mirror)
