"""A folder for what is being made, beside where it will go. One that a killed process left there is removed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

PREFIX = ".reflux-making-"


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, gone at the end. Its lock, which ends with this process, tells others to leave it alone."""
    with ExitStack() as held:
        with _locked(folder):  # nobody sees a new folder before it is locked
            for left in folder.glob(f"{PREFIX}*"):
                with suppress(OSError), _locked(left, fcntl.LOCK_NB) as ours:
                    if ours:
                        shutil.rmtree(left)
            scratch = Path(held.enter_context(TemporaryDirectory(prefix=PREFIX, dir=folder)))
            held.enter_context(_locked(scratch))
        yield scratch


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[bool]:
    """Whether the folder is locked: some file systems know no locks. With LOCK_NB, OSError if another process holds it."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | how)
            locked = True
        except BlockingIOError:
            raise
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(place)
