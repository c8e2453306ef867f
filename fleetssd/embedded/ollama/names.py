"""Model names: [host/][namespace/]model[:tag], matched without regard to case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,79}\Z")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,349}\Z")


@dataclass(frozen=True, slots=True)
class Name:
    """A fully qualified model name, its case as it was written."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    @property
    def valid(self) -> bool:
        """Whether every part has the characters and length that the server accepts."""
        return bool(
            _HOST.match(self.host)
            and _NAMESPACE.match(self.namespace)
            and _PART.match(self.model)
            and _PART.match(self.tag)
        )

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """The four parts, widest first: also the manifest's path below `manifests/`."""
        return self.host, self.namespace, self.model, self.tag

    @property
    def short(self) -> str:
        """The shortest spelling; the tag is always shown."""
        name = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{name}"
        return name


def parse_name(text: str) -> Name:
    """Split `text` into a name with defaults filled in; ask `.valid` before use."""
    scheme, sep, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if sep else ("https", text)
    tag = DEFAULT_TAG
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, _, model = rest.rpartition("/")
    rest, _, namespace = rest.rpartition("/")
    return Name(rest or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag, scheme)


def fold_to_existing(name: Name, existing: Iterable[Name]) -> Name:
    """Spell each part of `name` the way the first stored name spells it, if only the case differs."""
    found: dict[str, str] = {}
    for other in existing:
        for part in ("host", "namespace", "model", "tag"):
            spelled = getattr(other, part)
            if part not in found and spelled.lower() == getattr(name, part).lower():
                found[part] = spelled
    return replace(name, **found)
