"""What is to be done with a run."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """What is to be done with a run. It stands in the manifest until it is done, so that a run
    which was killed, cancelled or failed can be resumed."""

    kind: str  # "run" trains and replays, "replay" replays, "rebuild" checkpoints;
    # "validate", "what-if" and "smoothness" train again to check scores
    mode: str = ""  # of `engine.config.REPLAY_MODES`, where there is a replay
    targets: tuple[str, ...] = ()
    function: str = ""
    options: dict = field(default_factory=dict)  # of the checks, see `engine.validate`
