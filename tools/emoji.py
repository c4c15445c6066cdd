"""A real folder of images, for tests and `tools/story.py`: Google's emoji, of npm's emoji-datasource-google.

One class for each of its categories; PNGs of 64 × 64 pixels with transparency. Fetched once, and never committed.
"""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"


class UnavailableError(Exception):
    """The package is not here and cannot be fetched."""


def fetched() -> Path:
    """The folder of the package, in `REPLAY_TEST_CACHE` or the user's cache, outside the repository."""
    cache = Path(os.environ.get("REPLAY_TEST_CACHE", Path.home() / ".cache" / "replay-explorer-tests"))
    package = cache / "emoji"
    if (package / "package" / "emoji.json").is_file():
        return package / "package"
    if shutil.which("npm") is None:
        raise UnavailableError("npm, which fetches the emoji, is not installed")
    package.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=package, check=True, capture_output=True, text=True, timeout=300
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"npm cannot fetch {PACKAGE}: {error}") from error
    (packed,) = package.glob("*.tgz")
    with tarfile.open(packed) as archive:
        inside = [m for m in archive if m.name.startswith("package/img/google/64/") or m.name.endswith("emoji.json")]
        archive.extractall(package, inside, filter="data")
    packed.unlink()
    return package / "package"


def write(root: Path, most: int | None = None, skins: bool = False) -> Path:
    """A class folder of the 1,911 emoji, or of `most` of each class; with those of other `skins` nearly 3,800."""
    package = fetched()
    images = package / "img" / "google" / "64"
    counts: dict[str, int] = {}
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        category = entry["category"]
        for each in (entry, *(entry.get("skin_variations", {}).values() if skins else ())):
            counts[category] = counts.get(category, 0) + 1
            if (images / each["image"]).is_file() and (most is None or counts[category] <= most):
                (root / category).mkdir(parents=True, exist_ok=True)
                shutil.copy(images / each["image"], root / category)
    return root


def spoil(root: Path, mislabelled: int = 20) -> dict[str, list[str]]:
    """Adds to a class folder what real ones have: broken files, duplicates within and across classes, a picture that
    only EXIF turns upright, and images in a folder that is not theirs, `mislabelled` of them at the most. Returns the
    paths by kind."""
    rng = np.random.default_rng(0)
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    files = {path: sorted(path.glob("*.png")) for path in classes}
    first, second = classes[0], classes[1]
    broken = [first / "empty.png", first / "cut.png", first / "text.jpg"]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(files[first][0].read_bytes()[:200])
    broken[2].write_text("no image")
    same = [first / "again.png", second / "elsewhere.png"]
    shutil.copy(files[first][1], same[0])
    shutil.copy(files[first][2], same[1])
    turned = first / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[second][3]).rotate(90).save(turned, exif=exif)
    moved = []
    for number in rng.choice(len(classes) - 2, mislabelled) + 2:
        if not files[classes[number]]:  # a small class that was drawn too often
            continue
        source = files[classes[number]].pop(int(rng.integers(len(files[classes[number]]))))
        to = classes[int((number + 1 + rng.integers(len(classes) - 1)) % len(classes))] / f"moved-{source.name}"
        source.rename(to)
        moved.append(to)
    paths = {"broken": broken, "same": same, "turned": [turned], "moved": moved}
    return {kind: [str(path.relative_to(root)) for path in found] for kind, found in paths.items()}
