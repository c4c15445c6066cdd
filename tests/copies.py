"""A run on images of which some are there more than once: for the tests of duplicates."""

import numpy as np

from tests import quick

CONFIG = quick.CONFIG.replace(**{"recipe.batch_size": 6, "preset": "copies"})


def arrays(path) -> str:
    """The name of a data set of 30 and 10 images of 12 × 12 in colour, which is written to `path`. Training images 3
    and 4 are 0 again, 4 with another label; 7 is 6 a little changed, 9 is 8 mirrored. Test image 0 is training image 0,
    1 is training image 6 a little changed, 2 and 3 are the same."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 12, 12, 3), np.uint8) for n in (30, 10))
    train[[3, 4]] = train[0]
    train[7] = np.clip(train[6].astype(int) + 2, 0, 255)
    train[9] = train[8][:, ::-1]
    test[0], test[1], test[3] = train[0], np.clip(train[6].astype(int) + 4, 0, 255), test[2]
    labels = [np.arange(len(images)) % 3 for images in (train, test)]
    labels[0][[0, 3, 4]], labels[0][[6, 7]], labels[1][:4] = [0, 0, 1], 2, [0, 2, 1, 1]
    np.savez(
        path,
        images=train,
        labels=labels[0],
        test_images=test,
        test_labels=labels[1],
        classes=np.array(["ant", "bee", "cat"]),
    )
    return f"arrays:{path}"
