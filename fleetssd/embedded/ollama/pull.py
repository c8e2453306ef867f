"""/api/pull, from a registry on loopback and from nowhere else: the blobs are here, only the manifest is fetched."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator

import httpx

from .create import no_network, stored_before
from .models import MANIFEST_TYPE
from .names import Name
from .replies import JSON_PLAIN, ApiError, Json
from .store import BadManifest, Manifest, Store, parse_manifest


async def pull(store: Store, name: Name, *, insecure: bool) -> AsyncIterator[Json]:
    """Fetch one manifest and name its layers, yielding status lines.

    Every layer must have been uploaded. The manifest is stored as the bytes that came, so the model's digest is
    their sha256. Raises ApiError 500 with the texts of the real server.
    """
    yield {"status": "pulling manifest"}
    if not _on_loopback(name.host):
        raise _error(no_network(name))
    if name.scheme != "http" or not insecure:
        url = f"https://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        raise _error(f'pull model manifest: Get "{url}": tls: first record does not look like a TLS handshake')
    base = f"http://{name.host}/v2/{name.namespace}/{name.model}"
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        manifest = await _fetched(client, f"{base}/manifests/{name.tag}")
        for entry in (*manifest.layers, manifest.config):
            digest, size = str(entry["digest"]), int(entry["size"])
            if not store.blob(digest).exists():
                await _miss(client, f"{base}/blobs/{digest}")
            status = f"pulling {digest.removeprefix('sha256:')[:12]}"
            yield {"status": status, "digest": digest, "total": size, "completed": size}
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    old = stored_before(store, name)
    store.write_manifest(name, manifest.raw)
    store.sweep(old.digests if old else ())
    yield {"status": "success"}


def _on_loopback(host: str) -> bool:
    bare = host.rpartition(":")[0] or host
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare.strip("[]")).is_loopback
    except ValueError:
        return False


async def _fetched(client: httpx.AsyncClient, url: str) -> Manifest:
    try:
        reply = await client.get(url, headers={"Accept": MANIFEST_TYPE})
    except httpx.HTTPError as error:
        raise _error(f'pull model manifest: Get "{url}": {error}') from error
    if reply.status_code == 404:
        raise _error("pull model manifest: file does not exist")
    if reply.status_code != 200:
        raise _error(f"pull model manifest: {reply.status_code}: {reply.text}")
    try:
        return parse_manifest(reply.content)
    except BadManifest as error:
        raise _error(f"pull model manifest: {error}") from error


async def _miss(client: httpx.AsyncClient, url: str) -> None:
    """Ask for a blob that was not uploaded, as the real server does, and fail: nothing is downloaded here."""
    head = await client.head(url)
    if head.status_code == 404:
        await client.get(url)
        raise _error("file does not exist")
    raise _error("http: no Location header in response")


def _error(text: str) -> ApiError:
    return ApiError(500, text, content_type=JSON_PLAIN)
