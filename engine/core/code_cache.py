"""Where compiled code is kept from process to process: a folder beside the outputs, bounded in size.

Compiling a step takes a minute or more, and seconds where the folder has it. The compiler's own cache decides what is
the same: the operations, shapes, settings, its version and the device.
"""

import contextlib
import os
import stat
import time
from pathlib import Path

FOLDER, MOST_BYTES, RECENT = ".replay-compiled", 2 << 30, 3600.0  # bytes of what is kept; seconds


def keep_in(outputs: Path) -> list[str]:
    """From now on the compiler keeps its results in REPLAY_CACHE_DIR, or in a folder beside `outputs`; what a person
    should know of it. It is not inside: people hand outputs on, and this is code that runs.

    A folder that others may write to is not used. Beyond `MOST_BYTES` the files least recently written are deleted,
    of those that are older than an hour.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    set_now = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if set_now not in (None, default_cache_dir(), _kept.get("folder")):
        return []  # a person's own choice: torch sets the variable itself, to its default
    folder = Path(os.environ.get("REPLAY_CACHE_DIR") or outputs.parent / FOLDER).expanduser().absolute()
    if _kept.get("folder") == str(folder):
        return []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return [f"Compiled code is not kept: others may write to {folder}."]
        _delete_oldest(folder)
    except OSError as error:
        return [f"Compiled code is not kept in {folder}: {error.strerror}."]
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = _kept["folder"] = str(folder)
    return []


_kept: dict[str, str] = {}  # the folder that this process was told: the variable is the process's own


def _delete_oldest(folder: Path) -> None:
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies up too
            about = path.lstat()
            if stat.S_ISREG(about.st_mode):
                found.append((about.st_mtime, about.st_size, path))
    excess = sum(size for _, size, _ in found) - MOST_BYTES
    for written, size, path in sorted(found, key=lambda each: each[:2]):
        if excess <= 0 or time.time() - written < RECENT:
            return
        path.unlink(missing_ok=True)
        excess -= size
