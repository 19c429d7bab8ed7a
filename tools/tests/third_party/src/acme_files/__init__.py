"""A small event store in one file of JSON lines, for programs that write little."""

from acme_files._event_store import FileEventStore

__all__ = ["FileEventStore"]
