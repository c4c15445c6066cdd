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

from typing import Callable, Protocol

from engine.errors import IntegrityError
from engine.state import State
from engine.store import Store, digest_of, without_momentum

Put = Callable[[int, State], None]
# Runs the steps from `start` to before `stop`, putting the state before each; gives the last state.
Forward = Callable[[State, int, int, Put], State]


class Trajectory(Protocol):
    def put(self, t: int, state: State) -> None: ...        # training, t = 0 … T − 1
    def finish(self, final: State) -> None: ...             # training, the state after all steps
    def get(self, t: int) -> State: ...                     # replay, t = T − 1 … 0; no momentum
    def rebuild(self) -> None: ...                          # all that is missing or damaged
    def close(self) -> None: ...


class Digests:
    """SHA-256 of the full states before every `every`-th step and after the last of `steps`.

    `note` records one that is not in `known`, and compares one that is.
    """

    def __init__(self, every: int, steps: int, known: dict[int, str] | None = None):
        self.every, self.steps, self.known = every, steps, dict(known or {})

    def note(self, t: int, state: State) -> None:
        if t % self.every and t != self.steps:
            return
        found = digest_of(state._asdict())
        if self.known.setdefault(t, found) != found:
            raise IntegrityError(
                f"The rebuilt state before step {t} is not the one that training went through "
                f"(SHA-256 {found[:12]}… instead of {self.known[t][:12]}…).",
                "The run was made with other software, hardware or thread counts (the manifest names "
                "them): rebuild it there, or start a new run here.")

    def after(self, t: int) -> int:
        """The first recorded step behind step t."""
        return min((t // self.every + 1) * self.every, self.steps)


class _Rebuilding:
    """What both kinds share: a way forward, the recorded digests, and someone to tell."""

    def __init__(self, store: Store, initial: State, forward: Forward, digests: Digests,
                 tell: Callable[[str], None] = lambda text: None):
        self.store, self.initial, self.forward, self.digests, self.tell = store, initial, forward, digests, tell
        self.rebuilt = 0        # steps run again

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
        stop = self.digests.after(max(lacking))       # so far that a digest says whether it is right
        self.tell(f"{error.what + ' ' if error else ''}Training steps 0 to {stop - 1} again, to rebuild "
                  f"{len(lacking)} of them.")
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
            self.tell(f"Training steps {sound} to {stop - 1} again, to rebuild {len(lacking)} of "
                      f"{len(starts)} checkpoints.")
            self._again(state, sound, stop, lambda t, state: self.store.put(t, state) if t in lacking else None)

    def _recompute(self, start: int) -> None:
        sound, state, lacking = self._sound_before(start)
        self._segment = {}

        def put(t: int, state: State) -> None:
            if t in lacking:
                self.store.put(t, state)
            if t >= start:
                self._segment[t] = without_momentum(state)

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
