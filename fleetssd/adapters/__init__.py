"""One thin adapter per outside dependency; nothing here decides."""
