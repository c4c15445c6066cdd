"""A perceptual hash: 64 bits that stay what they are where an image is scaled, encoded anew or a little changed.

pHash (Zauner, «Implementation and benchmarking of perceptual image hash functions», 2010), as the package ImageHash has
it: of the image in grey, scaled to 32 × 32, the 8 × 8 lowest frequencies of the discrete cosine transform

    c_jk = 4 Σ_yx p_yx cos(π j (2y + 1) / 64) cos(π k (2x + 1) / 64)         bit jk = c_jk > the median of all 64

Two images differ by the number of bits in which their hashes do, from 0 to 64: 32 on average where they have nothing
to do with each other. An image turned by a quarter, or mirrored, has transposed coefficients, or odd ones of the other
sign: all eight hashes come of one transform.

When not: of images with little structure (a thing on a plain ground, a few pixels) many that are not the same look
alike. A flat image has no hash at all.
"""

import numpy as np
from PIL import Image

SIDE, LOW = 32, 8  # pixels that are transformed; frequencies that are kept, of each direction

BITS = LOW * LOW

TURNS = 8  # of a square: four quarters, as it is and mirrored

DIGITS = 6  # of a coefficient that count: the rest is rounding, which must decide no bit

_DCT = 2 * np.cos(np.pi / (2 * SIDE) * np.arange(LOW)[:, None] * (2 * np.arange(SIDE) + 1))  # [8, 32]


def coefficients(images: np.ndarray) -> np.ndarray:
    """The lowest frequencies of uint8 images [n, H, W, C], float64 [n, 8, 8]."""
    pixels = np.stack([_scaled(image) for image in images]) if len(images) else np.empty((0, SIDE, SIDE))
    return np.round(_DCT @ pixels.astype(np.float64) @ _DCT.T, DIGITS)


def _scaled(image: np.ndarray) -> np.ndarray:
    """uint8 [32, 32], in grey."""
    channels = image.shape[-1]
    if channels == 3:
        grey = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    else:  # one, or several that are no colours
        grey = Image.fromarray(np.ascontiguousarray(image.mean(-1).round().astype(np.uint8)))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def bits(coefficients: np.ndarray) -> np.ndarray:
    """The hashes, bool [n, 64], row by row of the coefficients [n, 8, 8]."""
    flat = coefficients.reshape(-1, BITS)
    return flat > np.median(flat, axis=1, keepdims=True)


def is_flat(coefficients: np.ndarray) -> np.ndarray:
    """bool [n]: images without structure, all of whose frequencies but the mean are 0. They have no hash."""
    flat = coefficients.reshape(-1, BITS)
    return (flat[:, 1:] == 0).all(1)


def turned(coefficients: np.ndarray) -> np.ndarray:
    """Those of the eight turns of each image, float64 [8, n, 8, 8], the first as it is: mirrored left to right the odd
    columns change their sign, top to bottom the odd rows, along the diagonal both change places."""
    signs = 1 - 2 * (np.arange(LOW) % 2)
    found = []
    for one in (coefficients, coefficients.transpose(0, 2, 1)):
        for down in (1, signs[:, None]):
            found += [one * down, one * down * signs]
    return np.stack(found)
