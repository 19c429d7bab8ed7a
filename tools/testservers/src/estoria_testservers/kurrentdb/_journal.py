"""The file that a killed server finds its log in again."""

import marshal
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]
_HEAD = 8


class Journal:
    """Appends commits to a file, each as one frame: length, checksum, rows.

    A commit that a kill cut off in the middle is no commit.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab", buffering=0)

    def write(self, rows: Sequence[Row]) -> None:
        """Hand a commit to the system, which keeps it when this process is killed."""
        body = marshal.dumps(list(rows))
        head = len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big")
        self._file.write(head + body)

    @staticmethod
    def rows(file: Path) -> Iterator[list[Row]]:
        """The commits in the file; what is left of a torn one is cut off."""
        if not file.exists():
            return
        content = file.read_bytes()
        start = 0
        while len(content) - start >= _HEAD:
            size = int.from_bytes(content[start : start + 4], "big")
            body = content[start + _HEAD : start + _HEAD + size]
            if zlib.crc32(body) != int.from_bytes(content[start + 4 : start + _HEAD], "big"):
                break
            start += _HEAD + size
            yield marshal.loads(body)  # noqa: S302 - the server's own file
        if start < len(content):
            with file.open("r+b") as torn:
                torn.truncate(start)
