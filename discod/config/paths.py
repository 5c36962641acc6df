"""Where discod keeps its files: four places, or one directory given with --home or DISCOD_HOME.

    DIR/config.toml   DIR/state/   DIR/control.sock        the kernel cache stays the user's (DISCOD_CACHE moves it)

Directories of ours are 0700 and ours, or refused. A unix socket's path holds at most 107 bytes; a longer one moves to
/tmp/discod-UID/, under a name that only the long path decides, so that daemon and command line meet there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from msgspec import Struct

from discod.config.settings import DatasetEntry
from discod.errors import PermissionProblem

MAX_SOCKET_PATH = 107  # bytes, Linux (sun_path); macOS allows 103
SHORT_ROOT = Path("/tmp")  # noqa: S108  # only a 0700 directory of ours below it is used


class Paths(Struct, frozen=True):
    """The places of one home. `home` is None where the platform's own directories are used."""

    home: Path | None
    config: Path
    state: Path
    cache: Path
    socket: Path

    @property
    def identity(self) -> Path:
        """This peer's key file."""
        return self.state / "identity.key"

    def of_entry(self, entry: DatasetEntry) -> Path:
        """A data set's path, relative to the configuration file."""
        return self.config.parent / Path(entry.path).expanduser()

    def create(self) -> None:
        """Make the directories, mode 0700. Raises: PermissionProblem when one is not ours alone."""
        for directory in (self.config.parent, self.cache):
            _make(directory)
        for directory in dict.fromkeys((self.state, self.socket.parent)):
            _make(directory)
            if directory != self.home:
                check_private(directory)


def find_paths(home: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Paths:
    """Return the places for `home`, else $DISCOD_HOME, else the platform's directories. Nothing is created."""
    chosen = home or environ.get("DISCOD_HOME") or None
    cache = environ.get("DISCOD_CACHE")
    cache_path = Path(cache).expanduser().absolute() if cache else platformdirs.user_cache_path("discod")
    if chosen is not None:
        root = Path(chosen).expanduser().absolute()
        return Paths(root, root / "config.toml", root / "state", cache_path, short_socket(root / "control.sock"))
    return Paths(
        None,
        platformdirs.user_config_path("discod") / "config.toml",
        platformdirs.user_state_path("discod"),
        cache_path,
        short_socket(runtime_directory(environ) / "control.sock"),
    )


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the socket lies: discod/ in the session's own directory, without one /tmp/discod-UID."""
    session = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return session / "discod" if session.is_absolute() and session.is_dir() else SHORT_ROOT / f"discod-{os.getuid()}"


def short_socket(path: Path) -> Path:
    """Return `path`, or where it moves when a socket's path cannot be that long."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(b"discod/socket/1" + os.fsencode(path)).hexdigest()[:32]
    return SHORT_ROOT / f"discod-{os.getuid()}" / f"{name}.sock"


def check_private(directory: Path) -> None:
    """Raises: PermissionProblem unless `directory` is a real directory of this user, closed to all others."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionProblem(f"{directory} is not a directory", f"look at what is there: ls -ld {directory}")
    if status.st_uid != os.geteuid():
        why = f"{directory} belongs to user {status.st_uid}, not to the user running discod ({os.geteuid()})"
        raise PermissionProblem(why, f"use another --home, or chown {os.geteuid()} {directory}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        why = f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
        raise PermissionProblem(why, f"chmod 700 {directory}")


def _make(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        why = f"cannot make {directory}: {error.strerror}"
        raise PermissionProblem(why, "choose a directory of your own with --home DIR") from None
