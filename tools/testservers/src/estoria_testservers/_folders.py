"""Folders for servers' data, removed also when this process can't."""

import pwd
import tempfile
from pathlib import Path

from estoria_testservers._guard import remove_tree
from estoria_testservers._lifeline import lifeline
from estoria_testservers._users import give, reachable


def make_folder(user: pwd.struct_passwd | None = None) -> Path:
    """A new folder, of the given user, for one server."""
    parent = Path(tempfile.gettempdir())
    if not reachable(parent / "folder", user):
        parent = Path("/tmp")  # noqa: S108 - mkdtemp makes a name that nobody can foresee
    folder = Path(tempfile.mkdtemp(prefix="estoria-testservers-", dir=parent))
    lifeline().folder(str(folder))
    give(folder, user)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder that `make_folder` made."""
    remove_tree(str(folder))
    lifeline().removed(str(folder))
