"""A Gitea-compatible forge over real git repositories."""
