"""The Starlette app: webhook, status page, metrics."""
