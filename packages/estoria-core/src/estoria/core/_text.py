"""What a text may hold so that every backend can carry it unaltered."""

from functools import lru_cache

MAX_NAME_LENGTH = 255
"""The longest type name, in characters."""

RESERVED_PREFIX = "estoria."
"""Metadata keys and aggregate types that start so belong to the library."""


def text_fault(text: str) -> str | None:
    """Why no store may keep this text, or None: a NUL or a lone surrogate."""
    if "\0" in text:
        return "holds a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds a lone surrogate"
    return None


@lru_cache(maxsize=4096)
def name_fault(name: str) -> str | None:
    """Why this can't be the name of an aggregate type or of an event type, or None."""
    if not name:
        return "is empty"
    if name[0] == "$":
        return "starts with a dollar sign"
    if len(name) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    return text_fault(name)


def check_name(name: str, what: str) -> None:
    """Raise `ValueError` unless `name` can be a type name; `what` says which one it is."""
    if not isinstance(name, str):
        raise ValueError(f"{what} is a {type(name).__name__}, not a str")
    if (fault := name_fault(name)) is not None:
        shown = name if len(name) <= MAX_NAME_LENGTH else name[:32] + "…"
        raise ValueError(f"{what} {shown!r} {fault}")
