"""The system user that servers run as which refuse to be run by root."""

import os
import pwd
import stat
from pathlib import Path

_UNPRIVILEGED = ("postgres", "nobody")


def unprivileged_user() -> pwd.struct_passwd | None:
    """The user for a server that refuses root; `None` where this process is not root's."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    msg = f"root can't run this server, and no user is called {' or '.join(_UNPRIVILEGED)}"
    raise LookupError(msg)


def reachable(path: Path, user: pwd.struct_passwd | None) -> bool:
    """Tell whether a user can come to a path through all the folders above it."""
    if user is None:
        return True
    return all(_may_pass(folder.stat(), user) for folder in path.resolve().parents)


def _may_pass(folder: os.stat_result, user: pwd.struct_passwd) -> bool:
    if folder.st_uid == user.pw_uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid == user.pw_gid:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)


def give(path: Path, user: pwd.struct_passwd | None) -> None:
    """Make a user the owner of a folder and of everything in it."""
    if user is None:
        return
    for folder, _, files in os.walk(path):
        os.chown(folder, user.pw_uid, user.pw_gid)
        for name in files:
            os.chown(Path(folder, name), user.pw_uid, user.pw_gid, follow_symlinks=False)
