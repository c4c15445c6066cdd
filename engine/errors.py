"""Every error that the engine raises on purpose, in one tree.

    ReplayError
    ├── ConfigError      a setting, a target or an argument is out of its range
    ├── DataError        a data set is missing or is not what the run was made with
    ├── ModelError       a model cannot be trained or replayed exactly
    ├── DivergedError    training or replay left the finite numbers
    ├── StorageError     the disk is full, or a folder cannot be written
    ├── ReadOnlyError    REPLAY_READ_ONLY is set: nothing is started, deleted or written
    ├── IntegrityError   a file of a run is missing, truncated or changed
    ├── RunNotFoundError no such run
    ├── RunBusyError     another process or thread is working on the run
    ├── RankError        one of several processes that share a job has ended before its time
    └── CancelledError   the user cancelled; the run is left consistent

Each says what happened and where (`what`), and what to do about it (`remedy`).
Anything else that reaches a user is a defect, and is shown with its traceback.
"""


class ReplayError(Exception):
    """What went wrong and where, and the remedy: two sentences, kept apart for the pages."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


class ConfigError(ReplayError):
    """`problems` maps each field at fault to its message, for a form to show beside it."""

    def __init__(self, what: str, remedy: str = "", problems: dict[str, str] | None = None):
        super().__init__(what, remedy)
        self.problems = problems or {}


class DataError(ReplayError):
    pass


class ModelError(ReplayError):
    pass


class DivergedError(ReplayError):
    def __init__(self, what: str, remedy: str = "", step: int | None = None):
        super().__init__(what, remedy)
        self.step = step


class StorageError(ReplayError):
    """`passing`: the disk is full, so that the same write may succeed once there is space."""

    def __init__(self, what: str, remedy: str = "", passing: bool = False):
        super().__init__(what, remedy)
        self.passing = passing


class ReadOnlyError(ReplayError):
    pass


class IntegrityError(ReplayError):
    pass


class RunNotFoundError(ReplayError):
    pass


class RunBusyError(ReplayError):
    pass


class RankError(ReplayError):
    pass


class CancelledError(ReplayError):
    pass
