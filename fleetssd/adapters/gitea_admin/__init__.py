"""httpx behind the ports that write to a forge: webhooks, and the issue of an audit."""

from fleetssd.adapters.gitea_admin.hooks import GiteaHooks
from fleetssd.adapters.gitea_admin.issues import GiteaIssues

__all__ = ["GiteaHooks", "GiteaIssues"]
