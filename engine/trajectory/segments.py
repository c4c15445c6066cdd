"""Checkpoint spacing as a pure function of integers."""

import math

from engine.errors import ConfigError


def segment_length(steps: int, checkpoint_bytes: int, segment: int = 0, space: int = 0) -> int:
    """Steps from one full checkpoint to the next, from 1 to `steps`.

    `segment` where given. Else √T, which makes checkpoints and recomputed states about equally
    many (arXiv 1604.06174), or more where checkpoints of `checkpoint_bytes` each would take more
    than `space` bytes (0: any number). Raises `ConfigError` where not one of them fits.
    """
    if segment:
        return min(segment, steps)
    length = math.isqrt(steps - 1) + 1
    if space:
        if space < checkpoint_bytes:
            raise ConfigError(
                f"Not one checkpoint of {checkpoint_bytes:,} bytes fits into {space:,} bytes.",
                "Allow more space, or use a narrower model.",
                {"checkpoint_mb": f"holds not one checkpoint of {checkpoint_bytes / 1e6:.3g} MB"},
            )
        length = max(length, -(-steps // (space // checkpoint_bytes)))
    return length
