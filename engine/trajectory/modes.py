"""The states that training went through, for a replay that asks for them backwards.

Three modes, the same states bit for bit:

    memory      every state in RAM or GPU memory           `EveryState` on a `MemoryStore`
    disk        every state on disk, streamed              `EveryState` on a `DiskStore`
    recompute   every c-th full state kept, the segment    `Checkpoints`
                of c steps between two rebuilt in memory
                (arXiv 1604.06174); one more training in all

All rebuild what they lack by running the same steps forward again: a trajectory that was
deleted or lost with its process, a file that is damaged, a segment that was never kept. What is
rebuilt is compared with the digests that training recorded, every c steps and at the end.

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
    """What both kinds share: a way forward, the recorded digests, and someone to tell."""

    def __init__(
        self,
        store: Store,
        initial: State,
        forward: Forward,
        digests: Digests,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.store, self.initial, self.forward, self.digests, self.tell = store, initial, forward, digests, tell
        self.rebuilt = 0  # steps run again

    @property
    def steps(self) -> int:
        return self.digests.steps

    def finish(self, final: State) -> None:
        self.digests.note(self.steps, final)
        self.store.flush()

    def close(self) -> None:
        self.store.close()

    def _sound(self, t: int) -> bool:
        try:
            self.store.get(t)
            return True
        except IntegrityError:
            return False

    def _again(self, state: State, start: int, stop: int, put: Put) -> None:
        def check_and_put(t: int, state: State) -> None:
            self.digests.note(t, state)
            put(t, state)

        self.digests.note(stop, self.forward(state, start, stop, check_and_put))
        self.store.flush()
        self.rebuilt += stop - start


class EveryState(_Rebuilding):
    def put(self, t: int, state: State) -> None:
        self.digests.note(t, state)
        self.store.put(t, state)

    def get(self, t: int) -> State:
        try:
            return self.store.get(t)
        except IntegrityError as error:
            self._rebuild_to(t, error)
            return self.store.get(t)

    def rebuild(self) -> None:
        self._rebuild_to(self.steps - 1, None)

    def _rebuild_to(self, last: int, error: IntegrityError | None) -> None:
        lacking = {t for t in range(last + 1) if not self._sound(t)}
        if not lacking:
            return
        stop = self.digests.after(max(lacking))  # so far that a digest says whether it is right
        self.tell(
            f"{error.what + ' ' if error else ''}Training steps 0 to {stop - 1} again, to rebuild "
            f"{len(lacking)} of them."
        )
        self._again(self.initial, 0, stop, lambda t, state: self.store.put(t, state) if t in lacking else None)


class Checkpoints(_Rebuilding):
    """`store` must keep full states; its spacing is that of the digests."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._segment: dict[int, State] = {}

    def put(self, t: int, state: State) -> None:
        self.digests.note(t, state)
        if t % self.digests.every == 0:
            self.store.put(t, state)

    def get(self, t: int) -> State:
        if t not in self._segment:
            self._recompute(t - t % self.digests.every)
        return self._segment[t]

    def rebuild(self) -> None:
        starts = range(0, self.steps, self.digests.every)
        lacking = {t for t in starts if not self._sound(t)}
        if lacking:
            sound, state, _ = self._sound_before(min(lacking))
            stop = self.digests.after(max(lacking))
            self.tell(
                f"Training steps {sound} to {stop - 1} again, to rebuild {len(lacking)} of {len(starts)} checkpoints."
            )
            self._again(state, sound, stop, lambda t, state: self.store.put(t, state) if t in lacking else None)

    def _recompute(self, start: int) -> None:
        sound, state, lacking = self._sound_before(start)
        self._segment = {}

        def put(t: int, state: State) -> None:
            if t in lacking:
                self.store.put(t, state)
            if t >= start:
                self._segment[t] = for_replay(state, self.digests.optimizer)

        self._again(state, sound, self.digests.after(start), put)

    def _sound_before(self, start: int) -> tuple[int, State, set[int]]:
        """The nearest full state from `start` downwards, at worst the one that training began
        with; its step; and the checkpoints met that are missing or damaged."""
        lacking = set()
        for t in range(start, -1, -self.digests.every):
            try:
                return t, self.store.get(t), lacking
            except IntegrityError as error:
                lacking.add(t)
                self.tell(f"{error.what} It is made again from the checkpoint before it.")
        return 0, self.initial, lacking

    def close(self) -> None:
        self._segment.clear()
        super().close()
