"""Exact duplicates: images whose pixels, as training sees them, are the same; within a split and across both."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


def digest(image: np.ndarray) -> bytes:
    """Of the pixels of one image, uint8 [H, W, C]: two images have the same where they are the same in every pixel."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def digest_of_turns(image: np.ndarray) -> bytes:
    """The same for all eight turns of an image: quarters, as it is and mirrored."""
    ways = (np.rot90(one, quarter) for one in (image, image[:, ::-1]) for quarter in range(4))
    return min(b"%d " % way.shape[0] + digest(way) for way in ways)


def groups(
    digests: Mapping[str, Sequence[bytes]],
    hashes: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int]],
    names: Mapping[str, Sequence[str]],
    classes: Sequence[str],
) -> list[dict]:
    """One record for each set of two or more equal images, by split:

        {"kind": "duplicate", "same_bytes": bool, "across_splits": bool, "labels_differ": bool, "file": its first name,
         "detail": a sentence, "images": [{"split", "index", "name", "label"}, …]}

    `digests` are of the decoded pixels, `hashes` of the files' bytes ("" where an image has no file of its own).
    """
    members: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, column in digests.items():
        for index, digest in enumerate(column):
            members[digest].append((split, index))
    records = []
    for places in members.values():
        if len(places) < 2:
            continue
        images = [
            {"split": split, "index": index, "name": names[split][index], "label": classes[labels[split][index]]}
            for split, index in places
        ]
        files = {hashes[split][index] for split, index in places}
        same_bytes = len(files) == 1 and "" not in files
        across = len({split for split, _ in places}) > 1
        differ = len({image["label"] for image in images}) > 1
        detail = f"{len(images):,} images are the same" + (", byte for byte" if same_bytes else " in every pixel")
        if across:
            detail += "; in both splits, so that testing on it says little"
        if differ:
            detail += "; their labels differ, so that all but one are wrong"
        records.append(
            {
                "kind": "duplicate",
                "file": images[0]["name"],
                "detail": detail,
                "same_bytes": same_bytes,
                "across_splits": across,
                "labels_differ": differ,
                "images": images,
            }
        )
    return records
