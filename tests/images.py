"""Small folders of images for tests, and a real one: Google's emoji, from the npm package emoji-datasource-google."""

import json
import os
import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EMOJI = "emoji-datasource-google@16.0.0"


def picture(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """Noise, another for each seed."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """ROOT/CLASS/n.png, so many of each class; no two images are the same."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        first = zlib.crc32(os.fsencode(root / name))
        for number in range(count):
            picture(first + number, size, mode).save(root / name / f"{number:03d}.png")
    return root


def emoji(root: Path) -> Path:
    """A class folder of 1,911 emoji of 64 × 64 pixels with transparency, one class a category. Skips the test where
    npm is not there or cannot fetch the package; what it fetched is kept in `REPLAY_TEST_CACHE`, outside the
    repository."""
    cache = Path(os.environ.get("REPLAY_TEST_CACHE", Path.home() / ".cache" / "replay-explorer-tests"))
    package = cache / "emoji"
    if not (package / "package" / "emoji.json").is_file():
        if shutil.which("npm") is None:
            pytest.skip("npm, which fetches the emoji, is not installed")
        package.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                ["npm", "pack", "--silent", EMOJI], cwd=package, check=True, capture_output=True, text=True, timeout=300
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm cannot fetch {EMOJI}: {error}")
        (packed,) = package.glob("*.tgz")
        with tarfile.open(packed) as archive:
            inside = [
                m for m in archive if m.name.startswith("package/img/google/64/") or m.name.endswith("emoji.json")
            ]
            archive.extractall(package, inside, filter="data")
        packed.unlink()
    images = package / "package" / "img" / "google" / "64"
    for entry in json.loads((package / "package" / "emoji.json").read_text(encoding="utf-8")):
        if (images / entry["image"]).is_file():
            (root / entry["category"]).mkdir(parents=True, exist_ok=True)
            shutil.copy(images / entry["image"], root / entry["category"])
    return root


def spoil(root: Path, mislabelled: int = 20) -> dict[str, list[str]]:
    """Adds to a class folder what real ones have: broken files, duplicates within and across classes, a picture that
    only EXIF turns upright, and images in a folder that is not theirs. Returns the paths by kind."""
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
        source = files[classes[number]].pop(int(rng.integers(len(files[classes[number]]))))
        to = classes[int((number + 1 + rng.integers(len(classes) - 1)) % len(classes))] / f"moved-{source.name}"
        source.rename(to)
        moved.append(to)
    paths = {"broken": broken, "same": same, "turned": [turned], "moved": moved}
    return {kind: [str(path.relative_to(root)) for path in found] for kind, found in paths.items()}
