"""What further targets of a run will cost, by what its replays took so far."""

from engine.runs.manifest import Manifest


def replay_seconds(record: Manifest, targets: int) -> float | None:
    """Seconds in which one process replays for so many targets; None where the run has replayed for none yet.

    Of runs made before they counted the targets they replayed for, by the targets that have scores.
    """
    took = record.timings.get("replay_seconds")
    done = record.timings.get("replay_targets") or record.targets_scored
    return took / done * targets if took and done else None


def in_words(seconds: float) -> str:
    """Such as «40 s», «12 min» or «2.5 h»."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
