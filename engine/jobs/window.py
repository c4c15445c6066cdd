"""Where retrainings part from a run: before the first step at which example weights count (`RunConfig.window`).

    model/window.safetensors     the full state before that step

It lies with the model and not in the trajectory, so that cleaning that does not lose it. Training leaves it as it
passes. Where it is missing or damaged, the steps before it are trained again, and the digest that training recorded
says whether the state is the same.
"""

from collections.abc import Callable

from engine import files
from engine.core.state import Recorder, State
from engine.core.training import advance
from engine.jobs.session import WINDOW, Session
from engine.trajectory.state_files import bytes_of, named, write_state


def begin(session: Session) -> tuple[int, State] | None:
    """The step and the state before it that retrainings begin with, made again where it was lost; None where weights
    count from the start of training. Raises `IntegrityError` where what is made again is not what training went
    through."""
    if not session.start:
        return None
    if (there := session.kept_window()) is not None:
        return there
    meter = session.journal.phase("rebuild", session.start)
    state = advance(
        session.model,
        session.stream,
        session.initial,
        0,
        session.start,
        on_progress=lambda done, losses, rates: meter.report(done),
        before_step=session.check_cancelled,
        passes=session.forwards,
    )
    session.recorded_digests().note(session.start, state)
    session.journal.add_files({WINDOW: session.journal.save(*_file(session, state))})
    return session.start, state


class WithWindow:
    """A recorder of a training that also leaves the state before the window's first step with the model."""

    def __init__(self, recorder: Recorder, session: Session):
        self.recorder, self.session = recorder, session

    def put(self, t: int, state: State) -> None:
        if t and t == self.session.start:  # before what the recorder leaves for a killed training to go on from
            self.session.writer.write(*_file(self.session, state))
        self.recorder.put(t, state)

    def finish(self, final: State) -> None:
        self.recorder.finish(final)
        self.session.writer.flush()


def checksums(session: Session) -> dict[str, str]:
    """SHA-256 of the state's file by its path in the run; none where there is no such file."""
    path = session.run.path / WINDOW
    return {WINDOW: files.sha256_of(path, "Start the run again.")} if session.start and path.exists() else {}


def _file(session: Session, state: State) -> tuple[int, Callable[[], str]]:
    """Bytes of the file, and what writes it."""
    tensors = named(state, session.optimizer)
    header = {"training": session.training, "step": str(session.start)}
    return bytes_of(tensors), lambda: write_state(session.run.path / WINDOW, tensors, header)
