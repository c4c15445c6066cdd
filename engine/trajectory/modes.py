"""The states that training went through, for a replay that asks for them backwards.

Three modes, the same states bit for bit. T steps, P parameters, Q buffers; a state for replay has P + Q floats, a
full one, which training can go on from, 2 P + Q with SGD (3 P + Q with Adam):

    mode        states kept                  time                    when
    memory      T in RAM or GPU memory       one training            they fit: the fastest, nothing outlives the process
                `EveryState` on a `MemoryStore`
    disk        T on disk, streamed          one training + reading  further targets will be asked for later: a replay
                `EveryState` on a `DiskStore`                        begins at once, and takes memory for four states
    recompute   T/c full ones on disk or in  two trainings           T states fit nowhere: with c = √T, 2 √T states in
                memory, c in memory          (each replay one more)  all (arXiv 1604.06174)
                `Checkpoints`

When not: memory for long trainings of large models (T (P + Q) floats); disk where the disk is slower than the
training, or small; recompute where the time of one more training for each replay matters more than the space.

All rebuild what they lack by running the same steps forward again: a trajectory that was
deleted or lost with its process, a file that is damaged, a segment that was never kept. What is
rebuilt is compared with the digests that training recorded, every c steps and at the end.

Where a replay ends at a step s (`Digests.start`), no state before it is kept, and none is rebuilt but on the way: T is
then the number of steps from s on, and rebuilding begins with the state before step s, where that is at hand.

A tree of checkpoints, deeper than these two levels, would save memory of √T states for one more
training; a segment's c states have fitted wherever the batch did, so there is none.
"""

from collections.abc import Callable

from engine.core.state import Forward, Put, State
from engine.errors import IntegrityError
from engine.trajectory.digests import Digests
from engine.trajectory.state_files import for_replay
from engine.trajectory.stores import Store


class _Rebuilding:
    """What both kinds share.

    `store`     where states are put
    `initial`   a full state that rebuilding can begin with: before step 0, or before `begins`
    `forward`   runs steps again: (full state, start, stop, put) → the state before `stop`
    `digests`   recorded by training; those of rebuilt states must be the same; their `start` is the first step kept
    `notify`    is told in a sentence what is missing or damaged, and what is done about it
    `begins`    the step that `initial` stands before: 0 or `digests.start`
    """

    def __init__(
        self,
        store: Store,
        initial: State,
        forward: Forward,
        digests: Digests,
        notify: Callable[[str], None] = lambda text: None,
        begins: int = 0,
    ):
        self.store, self.initial, self.forward, self.digests, self.notify = store, initial, forward, digests, notify
        self.begins = begins
        self.rebuilt = 0  # steps run again

    @property
    def steps(self) -> int:
        return self.digests.steps

    @property
    def start(self) -> int:
        """The first step whose state is kept."""
        return self.digests.start

    def finish(self, final: State) -> None:
        self.digests.note(self.steps, final)
        self.store.flush()

    def close(self) -> None:
        self.store.close()

    def is_intact(self, t: int) -> bool:
        """Whether the state before step t can be read."""
        try:
            self.store.get(t)
            return True
        except IntegrityError:
            return False

    def _lacking(self, steps: range) -> set[int]:
        """Which of these steps, in descending order, are missing or damaged. Reads each state once: the order is
        the one in which a store reads ahead."""
        return {t for t in steps if not self.is_intact(t)}

    def _recompute(self, state: State, start: int, stop: int, lacking: set[int], use: Put | None = None) -> None:
        """Runs the steps from `start` to before `stop` again, and puts the states of those in `lacking`; `use` is
        handed every state.

        States are put once the next digest says that they are right: what differs must not lie in the store, where
        the next replay would take it for what training went through.
        """
        unconfirmed: dict[int, State] = {}

        def confirm(t: int, state: State) -> None:
            self.digests.note(t, state)
            if self.digests.is_recorded(t):
                for confirmed, its_state in unconfirmed.items():
                    self.store.put(confirmed, its_state)
                unconfirmed.clear()

        def check_and_use(t: int, state: State) -> None:
            if t in lacking:
                unconfirmed[t] = state
            confirm(t, state)
            if use is not None:
                use(t, state)

        confirm(stop, self.forward(state, start, stop, check_and_use))
        self.store.flush()
        self.rebuilt += stop - start


class EveryState(_Rebuilding):
    """The state before every step is kept: memory mode and disk mode, by the store."""

    def put(self, t: int, state: State) -> None:
        self.digests.note(t, state)
        if t >= self.start:
            self.store.put(t, state)

    def get(self, t: int) -> State:
        try:
            return self.store.get(t)
        except IntegrityError as error:
            self._rebuild_to(t, f"{error.what} ")
            return self.store.get(t)

    def rebuild(self) -> None:
        self._rebuild_to(self.steps - 1)

    def _rebuild_to(self, last: int, reason: str = "") -> None:
        """Trains what is lacking of the steps `start` … `last` again. One damaged state costs all steps before it,
        since no full state is kept nearer than `initial`."""
        lacking = self._lacking(range(last, self.start - 1, -1))
        if not lacking:
            return
        stop = self.digests.after(max(lacking))  # so far that a digest says whether it is right
        self.notify(f"{reason}Training steps {self.begins} to {stop - 1} again, to rebuild {len(lacking)} of them.")
        self._recompute(self.initial, self.begins, stop, lacking)


class Checkpoints(_Rebuilding):
    """Every c-th full state is kept, and the c states of the segment that a replay is in: recompute mode.

    `store` must keep full states; c is the digests' spacing.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._segment: dict[int, State] = {}

    def put(self, t: int, state: State) -> None:
        self.digests.note(t, state)
        if self.digests.begins_segment(t):
            self.store.put(t, state)

    def get(self, t: int) -> State:
        if t not in self._segment:
            self._load_segment(self.digests.segment_of(t))
        return self._segment[t]

    def rebuild(self) -> None:
        starts = range(self.start, self.steps, self.digests.every)
        lacking = self._lacking(starts[::-1])
        if lacking:
            start, state, _ = self._intact_before(min(lacking) - self.digests.every)
            stop = self.digests.after(max(lacking))
            self.notify(
                f"Training steps {start} to {stop - 1} again, to rebuild {len(lacking)} of {len(starts)} checkpoints."
            )
            self._recompute(state, start, stop, lacking)

    def close(self) -> None:
        self._segment.clear()
        super().close()

    def _load_segment(self, first: int) -> None:
        """Into memory: the states of the segment that begins with step `first`."""
        start, state, lacking = self._intact_before(first)
        self._segment, segment = {}, {}  # the segment before makes way for this one

        def use(t: int, state: State) -> None:
            if t >= first:
                segment[t] = for_replay(state, self.digests.optimizer)

        self._recompute(state, start, self.digests.after(first), lacking, use)
        self._segment = segment  # now that its digests have said that it is right

    def _intact_before(self, step: int) -> tuple[int, State, set[int]]:
        """The nearest intact full state from `step` downwards, at worst `initial`; its step;
        and the checkpoints met that are missing or damaged."""
        lacking = set()
        for t in range(step, self.start - 1, -self.digests.every):
            try:
                return t, self.store.get(t), lacking
            except IntegrityError as error:
                lacking.add(t)
                self.notify(f"{error.what} It is made again from the checkpoint before it.")
        return self.begins, self.initial, lacking
