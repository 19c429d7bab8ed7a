"""Names that nobody else uses."""

import uuid


def fresh_name(prefix: str = "test") -> str:
    """A new name, of lower-case letters, digits and underscores.

    For whatever a test needs for itself: a database, a schema, a key prefix.
    """
    return f"{prefix}_{uuid.uuid4().hex[:16]}"
