"""A file system of its own, in memory, that can be full: what then fails, fails with ENOSPC. It needs the right to mount."""

import subprocess
import threading
from pathlib import Path

MEGABYTES = 256


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"
        self._over = threading.Event()
        self._filler: threading.Thread | None = None

    def __enter__(self) -> "Disk":
        """Raises PermissionError where nothing may be mounted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=1777", "reflux-faults", str(self.folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """To the last byte, and what is freed meanwhile too, until it is cleared."""
        self._over.clear()
        self._fill()
        self._filler = threading.Thread(target=self._keep_full, name="disk", daemon=True)
        self._filler.start()

    def clear(self) -> None:
        if self._filler:
            self._over.set()
            self._filler.join()
            self._filler = None
            self._ballast.unlink()

    def _keep_full(self) -> None:
        while not self._over.wait(0.05):
            self._fill()

    def _fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while ballast.write(bytes(1 << 20)):
                    pass
            except OSError:  # ENOSPC
                return
