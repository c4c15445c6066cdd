"""A real folder of images, for tests and `tools/story.py`: Google's emoji, of npm's emoji-datasource-google.

One class for each of its categories; PNGs of 64 × 64 pixels with transparency. Fetched once, and never committed. With
the siblings of that package, which hold the same emoji as others draw them, it has some 15,000 images:

    python -m tools.emoji FOLDER [--vendors google,apple,twitter,facebook] [--no-skins]

writes them all, and adds what real folders have: broken files, duplicates, near duplicates, wrong labels.
"""

import argparse
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

VERSION = "16.0.0"
VENDORS = ("google", "apple", "twitter", "facebook")


class UnavailableError(Exception):
    """The package is not here and cannot be fetched."""


def fetched(vendor: str = "google") -> Path:
    """The folder of a vendor's package, in `REPLAY_TEST_CACHE` or the user's cache, outside the repository."""
    cache = Path(os.environ.get("REPLAY_TEST_CACHE", Path.home() / ".cache" / "replay-explorer-tests"))
    package = cache / ("emoji" if vendor == "google" else f"emoji-{vendor}")
    name = f"emoji-datasource-{vendor}@{VERSION}"
    if (package / "package" / "emoji.json").is_file():
        return package / "package"
    if shutil.which("npm") is None:
        raise UnavailableError("npm, which fetches the emoji, is not installed")
    package.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["npm", "pack", "--silent", name], cwd=package, check=True, capture_output=True, text=True, timeout=300
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"npm cannot fetch {name}: {error}") from error
    (packed,) = package.glob("*.tgz")
    with tarfile.open(packed) as archive:
        inside = [m for m in archive if m.name.startswith(f"package/img/{vendor}/64/") or m.name.endswith("emoji.json")]
        archive.extractall(package, inside, filter="data")
    packed.unlink()
    return package / "package"


def write(root: Path, most: int | None = None, skins: bool = False, vendors: tuple[str, ...] = ("google",)) -> Path:
    """A class folder of the 1,911 emoji, or of `most` of each class; with those of other `skins` nearly 3,800, of each
    of the `vendors`. A file has its vendor's name in front, where there are several."""
    counts: dict[str, int] = {}
    for vendor in vendors:
        package = fetched(vendor)
        images, prefix = package / "img" / vendor / "64", f"{vendor}-" if len(vendors) > 1 else ""
        for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
            category = entry["category"]
            for each in (entry, *(entry.get("skin_variations", {}).values() if skins else ())):
                counts[category] = counts.get(category, 0) + 1
                if (images / each["image"]).is_file() and (most is None or counts[category] <= most):
                    (root / category).mkdir(parents=True, exist_ok=True)
                    shutil.copy(images / each["image"], root / category / f"{prefix}{each['image']}")
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


def copies(root: Path, count: int = 60) -> dict[str, list[tuple[str, str]]]:
    """Adds to a class folder what comes of an image that was saved once more: `count` copies each as a JPEG, smaller,
    turned by a quarter, mirrored. Returns the paths of image and copy by kind."""
    rng = np.random.default_rng(1)
    changes = {
        "jpeg": lambda image: image.convert("RGB"),
        "smaller": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
        "quarter": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    files = sorted(path for path in root.glob("*/*.png") if path.stat().st_size > 500)
    chosen = rng.choice(len(files), count * len(changes), replace=False).reshape(len(changes), count)
    made: dict[str, list[tuple[str, str]]] = {}
    for (kind, change), numbers in zip(changes.items(), chosen, strict=True):
        for source in (files[number] for number in numbers):
            to = source.with_name(f"{kind}-{source.stem}{'.jpg' if kind == 'jpeg' else '.png'}")
            with Image.open(source) as image:
                opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            change(opaque).save(to)
            made.setdefault(kind, []).append((str(source.relative_to(root)), str(to.relative_to(root))))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.emoji", description="Write a folder of emoji, spoiled.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vendors", default=",".join(VENDORS), help="separated by commas (all four)")
    parser.add_argument("--no-skins", action="store_true", help="leave out those of other skins")
    parser.add_argument("--mislabelled", type=int, default=200, help="files that are moved to another class (200)")
    call = parser.parse_args()
    root = write(call.folder, skins=not call.no_skins, vendors=tuple(call.vendors.split(",")))
    made = {"copies": copies(root), **spoil(root, call.mislabelled)}
    beside = root.with_suffix(".json")
    beside.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(1 for _ in root.glob('*/*'))} files in {root}; what was spoiled: {beside}")


if __name__ == "__main__":
    main()
