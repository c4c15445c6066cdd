"""Several processes share the jobs of one run: the ranks that torchrun started, on one host or on several.

    torchrun --nproc-per-node=N -m engine attribute RUN --targets …

Rank 0 does what one process does: it alone holds the run, and writes its manifest and its events. Beside its own share
it gives out the others': whole passes of targets, whole groups of retrainings (`engine.jobs.parts`), so that no step is
ever split and the bits are those of one process. What a rank computes it leaves in the run's folder, as files with
checksums that exist without ranks too; so all hosts must share that folder, which is checked. What ranks say to each
other is a few lines of JSON in torchrun's store. One collective (gloo on CPUs, NCCL on GPUs) compares, before a job,
that all have the same initial state, batches and data before them.

No rank waits for a dead one. Each holds a lock on a file in `.ranks/`, which the system lets go of when it dies,
however it dies; rank 0 looks at the locks several times a second, and the others at that of rank 0.

When not: where one GPU does the work in minutes; torchrun, and what each rank loads, take about ten seconds. In memory
mode every rank trains for itself, since states outlive no process: the training is not shared, only the replay.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import math
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

import engine
from engine import device as devices
from engine import files
from engine.errors import CancelledError, ConfigError, IntegrityError, RankError, ReplayError, RunBusyError
from engine.jobs import launch, machine
from engine.jobs.cancel import Cancel
from engine.jobs.job import Job
from engine.jobs.journal import Journal, Quiet
from engine.jobs.parts import shares
from engine.jobs.registry import from_record
from engine.jobs.sharing import ALONE, Sharing
from engine.runs.job import JobRecord
from engine.runs.lock import FileLock
from engine.runs.run import Run

FOLDER = ".ranks"  # in the run's folder, while ranks are at work

LOOK = 0.2  # seconds between looks: at locks, at the store, at files that others write

JOIN = 300.0  # seconds in which all ranks must be there: hosts of a cluster start one after the other

GRACE = 4.0  # seconds in which a rank that was told to stop looks whether another one's death was the reason

STUCK = 10.0  # seconds for a step in hand, once another rank has died; then the process ends where it is

TELL_EVERY = 1.0, 5.0  # seconds between events of how far each rank is: at first, and in a long run

REMEDY = "What was finished is kept: resume the run to go on, with as many ranks as you like."


def rank() -> int:
    return int(os.environ["RANK"]) if launch.launched() else 0


def take_device() -> None:
    """Leaves this rank the one GPU of its host that is its own, before CUDA is used: then «cuda» means that one in all
    of its threads. Raises `ConfigError` where the host has fewer GPUs than ranks."""
    gpus, local, size = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if not gpus:
        return
    if size > gpus:
        raise ConfigError(
            f"{size} ranks were started on {machine.host()}, which has {gpus} GPUs.",
            f"Start one rank a GPU: --nproc-per-node={gpus}; or hide the GPUs with CUDA_VISIBLE_DEVICES= to compute on "
            "CPUs.",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[local].strip()


@contextlib.contextmanager
def held(run: Run) -> Iterator[None]:
    """Holds the run: with a lock of its own, or with the one that the app, which started torchrun, holds already and
    hands down as standard input. So the run is held until the last of these processes has ended."""
    try:
        handed_down = os.path.samestat(os.fstat(0), os.stat(run.path / ".lock", follow_symlinks=False))
    except OSError:
        handed_down = False
    if not handed_down:
        with run.lock():
            yield
        return
    try:
        fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the same open file: what is held is held
    except BlockingIOError:
        raise RunBusyError(f"Run {run.id} is in use by a job in progress.", "Wait until it has finished.") from None
    yield


# -- what both sides have


class _Rank(Sharing):
    """One of several processes. `states` are what each says of itself, by rank."""

    alone = False

    def __init__(self, cancel: Cancel):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.cancel, self.told_to_stop = cancel, False
        self._parent, self._ends, self._group, self._gone = os.getppid(), threading.Event(), False, False
        store, _, _ = next(rendezvous("env://", self.rank, self.size))
        self._store = PrefixStore("replay", store)
        self._state: dict[str, Any] = {
            "state": "working",
            "host": machine.host(),
            "pid": os.getpid(),
            "device": "",
        }
        self._locks: dict[int, FileLock] = {}
        self._lock: int | None = None
        self._looking = threading.Lock()  # both threads of a rank do
        self._watcher = threading.Thread(target=self._watch, name="replay-ranks", daemon=True)

    # ---- signals

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """SIGTERM, which torchrun sends where it is told to end or where a rank has died, ends the step in hand;
        SIGINT is a person who cancels."""

        def stop(number: int, frame: object) -> None:
            self.told_to_stop = True
            if number == signal.SIGTERM:
                self.cancel.interrupt()
            self.cancel.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- the store

    def _put(self, key: str, value: Any) -> None:
        with self._reached():
            self._store.set(key, json.dumps(value))

    def _take(self, key: str) -> Any:
        """The value at a key; None where there is none yet."""
        with self._reached():
            return json.loads(self._store.get(key)) if self._store.check([key]) else None

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Around each call of the store. Raises `RuntimeError` once it has gone, with torchrun, and never asks again:
        each try would wait, and print pages."""
        if self._gone:
            raise RuntimeError("torchrun has ended")
        try:
            yield
        except RuntimeError:
            self._gone = True
            raise

    def _await(self, key: str, seconds: float, what: str) -> Any:
        began = time.monotonic()
        while (value := self._take(key)) is None:
            self.check()
            if self.cancel.is_set() and self._take(key) is None:
                raise CancelledError("Cancelled while ranks waited for each other.", "")
            if time.monotonic() - began > seconds:
                raise RankError(what, "Look at the output of that rank, and start all of them again.")
            time.sleep(LOOK / 4)
        return value

    def say(self, **fields: Any) -> None:
        """Tells all how it is with this rank."""
        self._state |= fields
        with contextlib.suppress(RuntimeError):  # torchrun has gone, and its store with it: the watcher notices
            self._put(f"state/{self.rank}", self._state)

    # ---- life and death

    def _take_lock(self, run: Run) -> None:
        busy = f"Rank {self.rank} of an earlier call still works on run {run.id}.", "Wait until it has ended."
        self._locks = {rank: FileLock(run.path / FOLDER / str(rank), busy) for rank in range(self.size)}
        self._lock = self._locks[self.rank].acquire()

    def _dead(self, rank: int) -> bool:
        """Whether a rank has ended without a word. Its last word is looked for after its lock."""
        return not self._locks[rank].is_held() and (self._take(f"state/{rank}") or {}).get("state") == "working"

    def _watch(self) -> None:
        """In a thread of its own: so long as the process lives, whatever its main thread waits for."""
        failed = None
        while not self._ends.wait(LOOK):
            try:
                if os.getppid() != self._parent or launch.server_is_gone():
                    self._gone = True
                    raise RuntimeError("torchrun, or the server that started it, has ended")
                with self._looking:
                    self.look()
            except RuntimeError:  # so its store is gone, too
                self.told_to_stop = True
                self.cancel.interrupt()
                return
            if self.failure is not None:
                self.cancel.set()
                failed = failed or time.monotonic()
                if time.monotonic() - failed > STUCK:
                    self.give_up(self.failure)
                    os._exit(1)

    def look(self) -> None:
        """Looks at the other ranks, and sets `failure` where one of them is dead."""

    def give_up(self, error: BaseException) -> None:
        """Last words of a process whose main thread hangs."""

    def wait(self, done: Callable[[], bool]) -> None:
        while not done():
            self.check()
            if self.cancel.is_set():
                raise CancelledError("Cancelled while the others' parts were waited for.", "What was finished is kept.")
            time.sleep(LOOK)

    # ---- the same before all

    def opened(self, session: Any) -> None:
        """Compares what the ranks are about to compute with. Raises `RankError` that names the first that differs."""
        from engine.jobs.reopen import plan_digest
        from engine.trajectory.state_files import digest_of, named

        initial = digest_of(named(session.initial, session.optimizer))
        about = [initial, plan_digest(session.stream.plan), session.dataset.fingerprint, session.training]
        digest = bytes.fromhex(files.json_digest(about))
        mine = torch.tensor(list(digest), dtype=torch.uint8, device=session.device)
        if not self._group:
            distributed.init_process_group(
                "nccl" if session.device.type == "cuda" else "gloo",
                store=PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=datetime.timedelta(seconds=JOIN),
            )
            self._group = True
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        work = distributed.all_gather(theirs, mine, async_op=True)
        assert work is not None
        self.wait(work.is_completed)
        work.wait()
        for number, each in enumerate(theirs):
            if not torch.equal(each, theirs[0]):
                raise RankError(
                    f"Rank {number} on {self._host(number)} has another initial state, batch plan or data set before "
                    "it than rank 0.",
                    "Let all hosts have the same version of this project, of its libraries and of the data.",
                )

    def _host(self, rank: int) -> str:
        return (self._take(f"state/{rank}") or {}).get("host", "an unknown host")

    def leave(self, state: str, error: BaseException | None = None) -> None:
        """The last word of this rank."""
        what, remedy = (error.what, error.remedy) if isinstance(error, ReplayError) else (_line(error), "")
        self.say(state=state, what=what, remedy=remedy)
        self._ends.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._group and state == "ended":
            distributed.destroy_process_group()
        if self._lock is not None:
            os.close(self._lock)


def _line(error: BaseException | None) -> str:
    if error is None:
        return ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# -- rank 0


class Team(_Rank):
    """Rank 0's side: gives out the work, and watches."""

    def __init__(self, run: Run, cancel: Cancel):
        super().__init__(cancel)
        self.run = run
        self._orders, self._notes = 0, dict.fromkeys(range(1, self.size), 0)
        self._journal: Journal | None = None
        self._record: Callable[[BaseException], None] = lambda error: None
        self._began = self._told = time.monotonic()
        self._last_told: Any = None
        self._noted: set[str] = set()
        self._stopped_since: float | None = None

    def gather(self) -> None:
        """Returns once all ranks are there, see this run's folder, hold their locks and compute on the same kind of
        device with the same versions. Raises `RankError` or `ConfigError` that names the one that does not."""
        folder = self.run.path / FOLDER
        files.make_folder(folder)
        token = secrets.token_hex(16)
        files.write_json(folder / "token", token)
        self._take_lock(self.run)
        mine = introduction(self.run)
        self.say(**mine)
        self._put("run", {"run": self.run.id, "token": token})
        for other in range(1, self.size):
            theirs = self._await(f"here/{other}", JOIN, f"Rank {other} of {self.size} did not come in {JOIN:.0f} s.")
            where = f"Rank {other} on {theirs['host']}"
            if problem := theirs.get("problem"):
                raise RankError(f"{where} cannot take part: {problem}", theirs.get("remedy", ""))
            if not self._locks[other].is_held():
                raise RankError(
                    f"{where} holds a lock that rank 0 on {mine['host']} does not see: locks on the file system of "
                    f"{self.run.path} do not reach from host to host.",
                    "Mount it with locks (flock) on all hosts, or put the outputs on another file system.",
                )
            if theirs["device"] != mine["device"]:
                raise ConfigError(
                    f"{where} computes on {theirs['device']}, and rank 0 on {mine['host']} on {mine['device']}: "
                    "results of two kinds are not mixed.",
                    "Start all ranks on hosts of one kind.",
                )
            if theirs["versions"] != mine["versions"]:
                raise ConfigError(
                    f"{where} has other versions ({_said(theirs['versions'])}) than rank 0 "
                    f"({_said(mine['versions'])}).",
                    "Install the same on all hosts.",
                )
            if theirs["compiles"] != mine["compiles"]:
                who = {mine["compiles"]: f"Rank 0 on {mine['host']}", theirs["compiles"]: where}
                raise ConfigError(
                    f"{who[False]} has no compiler, and {who[True]} has: compiled steps have other bits.",
                    "Install g++ on all hosts (on GPUs gcc and Triton), or start a run with compile=off.",
                )
        self._watcher.start()

    # ---- what jobs ask

    def at_work(self, journal: Journal, record: Callable[[BaseException], None]) -> None:
        heard = journal.on_event

        def hear(event: dict) -> None:
            if event["kind"] in ("phase", "progress"):
                self.say(**_progress(event))
            if heard is not None:
                heard(event)

        journal.on_event = hear
        self._journal, self._record = journal, record
        hosts = sorted({self._host(rank) for rank in range(self.size)})
        journal.note(f"{self.size} ranks on {', '.join(hosts)} share the work, each on {self._state['device']}.")
        with self._looking:
            self._told = -math.inf  # at once, also where the work is over before the next time
            self._tell()

    def begin(self, job: Job) -> None:
        self._order("begin", job=job.record().to_json(), threads=torch.get_num_threads())

    def train(self) -> None:
        self._order("train")

    def share(self, kind: str, items: Sequence[Any], lacking: Collection[Any], **about: Any) -> list[Any]:
        mine, *others = shares([item for item in items if item in lacking], self.size)[::-1]
        self._order(kind, shares=[mine, *others], **about)
        return mine

    def why(self, error: BaseException) -> BaseException:
        """SIGTERM comes from torchrun, which was told to end, or which ends all ranks where one has died: then that is
        the reason, and it shows within moments."""
        if self._gone:  # the thread that watches may not have noticed yet
            self.cancel.interrupt()
        began = time.monotonic()
        while self.told_to_stop and self.failure is None and not self._gone and time.monotonic() - began < GRACE:
            with contextlib.suppress(RuntimeError), self._looking:
                self.look()
                if all(self._ended(rank) for rank in range(1, self.size)):
                    break
            time.sleep(LOOK / 4)
        self._ends.set()
        return self.failure or error

    def dismiss(self) -> None:
        """The end of all work, for all ranks."""
        with contextlib.suppress(RuntimeError):
            self._order("end")

    def tidy(self) -> None:
        with contextlib.suppress(OSError, ReplayError):
            files.remove_inside(self.run.path, self.run.path / FOLDER)

    def _order(self, do: str, **about: Any) -> None:
        self._put(f"order/{self._orders}", {"do": do, **about})
        self._orders += 1

    # ---- the others

    def look(self) -> None:
        stopped = False
        for other in range(1, self.size):
            state = self._take(f"state/{other}") or {}
            where = f"Rank {other} on {state.get('host', 'an unknown host')}"
            if state.get("state") == "failed":
                self.failure = RankError(f"{where} failed: {state['what']}", f"{state['remedy']} {REMEDY}".strip())
            elif state.get("state") == "stopped":
                stopped = True
                if not self.told_to_stop and self._stopped_for(GRACE):
                    self.failure = RankError(f"{where} was told to stop, and rank 0 was not.", REMEDY)
            elif self._dead(other):
                self.failure = RankError(
                    f"{where} died: its process ended without a word, as one that is killed or runs out of memory.",
                    f"Look at the memory and the system's log of that host. {REMEDY}",
                )
            self._pass_on(other, where)
        if not stopped:
            self._stopped_since = None
        self._tell()

    def _stopped_for(self, seconds: float) -> bool:
        self._stopped_since = self._stopped_since or time.monotonic()
        return time.monotonic() - self._stopped_since > seconds

    def _ended(self, other: int) -> bool:
        return (self._take(f"state/{other}") or {}).get("state") in ("ended", "stopped")

    def _pass_on(self, other: int, where: str) -> None:
        """Notes of another rank go into the run's log, each text once."""
        while (text := self._take(f"note/{other}/{self._notes[other]}")) is not None:
            self._notes[other] += 1
            if self._journal is not None and text not in self._noted:
                self._noted.add(text)
                self._journal.note(f"{where}: {text}")

    def _tell(self) -> None:
        """How far each rank is, as an event of the run."""
        now, (least, most) = time.monotonic(), TELL_EVERY
        if self._journal is None or now - self._told < min(max((now - self._began) / 100, least), most):
            return
        ranks = [{"rank": rank, **_shown(self._take(f"state/{rank}") or {})} for rank in range(self.size)]
        if ranks != self._last_told:
            self._told, self._last_told = now, ranks
            self._journal.event("ranks", ranks=ranks)

    def give_up(self, error: BaseException) -> None:
        self._record(error)
        self.say(state="ended")


SHOWN = ("host", "pid", "device", "state", "phase", "step", "steps", "rss", "gpu", "gpu_total")


def _shown(state: dict) -> dict:
    return {name: state[name] for name in SHOWN if name in state}


def _progress(event: dict) -> dict[str, Any]:
    """What a rank says of its own phase, from an event of its journal."""
    step = event.get("step", event.get("done", 0))
    meters = {name: event[name] for name in ("rss", "gpu", "gpu_total") if event.get(name) is not None}
    return {"phase": event["phase"], "step": step, "steps": event["steps"], **meters}


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def introduction(run: Run) -> dict[str, Any]:
    """What a rank says of itself, to be compared."""
    from engine.core.compiled import has_compiler

    manifest = run.manifest()
    device = devices.choose(manifest.config.device)
    versions = {"engine": engine.__version__, "torch": torch.__version__}
    compiles = manifest.config.compile != "off" and manifest.compiled is not False and has_compiler(device)
    kind = " ".join((machine.kind(device), *machine.instructions(device).values()))
    return {"host": machine.host(), "device": kind, "versions": versions, "compiles": compiles}


@contextlib.contextmanager
def team(run: Run) -> Iterator[tuple[Sharing, Cancel | None]]:
    """Around the work on a run: with the other ranks where torchrun started this process as rank 0 of several, else
    alone. Yields how the work is shared, and what cancels it."""
    if not launch.launched():
        yield ALONE, None
        return
    cancel = Cancel()
    team = Team(run, cancel)
    with team.answering():
        try:
            team.gather()
            yield team, cancel
        except BaseException as error:
            team.leave("ended", error)
            raise
        else:
            team.dismiss()
            team.leave("ended")
        finally:
            team.tidy()


# -- the other ranks


class Member(_Rank):
    """The side of a rank other than 0: does what rank 0 gives it, until that says that all is done."""

    def __init__(self, root: Path, cancel: Cancel):
        super().__init__(cancel)
        self.root, self._order, self._notes = root, 0, 0
        self.run: Run | None = None

    def join(self) -> Run:
        """Sees the run's folder and takes its own lock in it, or tells rank 0 why it cannot."""
        told = self._await("run", JOIN, f"Rank 0 did not name its run in {JOIN:.0f} s.")
        try:
            run = Run(self.root, told["run"])
            path = run.path / FOLDER / "token"
            if not path.is_file() or files.read_json(path, "") != told["token"]:
                raise ConfigError(
                    f"it does not see the run's folder as rank 0 does ({path} is not there, or is another).",
                    "Put the outputs on a file system that all hosts share, and name it on each (--outputs).",
                )
            self._take_lock(run)
            about = introduction(run)
        except ReplayError as error:
            self._put(f"here/{self.rank}", {"host": machine.host(), "problem": error.what, "remedy": error.remedy})
            raise
        self.run = run
        self.say(**about)
        self._put(f"here/{self.rank}", about)
        self._watcher.start()
        return run

    def hear(self, event: dict) -> None:
        """What the journal of a job says: how far it is, and notes."""
        if event["kind"] in ("phase", "progress"):
            self.say(**_progress(event))
        elif event["kind"] == "note":
            self.note(event["text"])

    def note(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._put(f"note/{self.rank}/{self._notes}", text)
        self._notes += 1

    def look(self) -> None:
        if (self._take("state/0") or {}).get("state") == "ended":  # with an error, unless its last order was read
            self.cancel.set()
        elif self._dead(0):
            self.failure = RankError(
                f"Rank 0 on {self._host(0)} died: its process ended without a word, as one that is killed or runs out "
                "of memory.",
                f"Look at the memory and the system's log of that host. {REMEDY}",
            )

    def share(self, kind: str, items: Sequence[Any], lacking: Collection[Any], **about: Any) -> list[Any]:
        raise AssertionError("rank 0 gives out the work")

    def orders(self) -> Iterator[dict]:
        """What rank 0 asks for, one after the other, until the end."""
        while True:
            order = self._await(f"order/{self._order}", float("inf"), "")
            self._order += 1
            if order["do"] == "end":
                return
            yield order

    def bury(self, error: BaseException) -> None:
        """Writes down that rank 0 died, where this is the rank to do it: the lowest that is left."""
        from engine.jobs.execute import record_failure

        if self.run is None or any(self._locks[lower].is_held() for lower in range(1, self.rank)):
            return
        with contextlib.suppress(ReplayError), held(self.run):
            if self.run.manifest().status_said != "failed":
                record_failure(self.run, error, threading.Event(), None)


def follow(root: Path) -> int:
    """All of what a rank other than 0 does. Returns its exit code."""
    cancel = Cancel()
    member = Member(root, cancel)
    with member.answering(), devices.exact_arithmetic():
        try:
            run = member.join()
            _obey(member, run)
        except BaseException as error:
            with contextlib.suppress(RuntimeError):
                member.look()
            if member.failure is not None and member.run is not None:
                member.bury(member.failure)
                member.leave("ended", member.failure)
                return 1
            stopped = isinstance(error, (CancelledError, KeyboardInterrupt)) or member.told_to_stop
            if not stopped and member.run is not None:
                from engine.jobs.execute import log_traceback

                log_traceback(member.run, error)
            member.leave("stopped" if stopped else "failed", error)
            return 1
        member.leave("ended")
    return 0


def _obey(member: Member, run: Run) -> None:
    from engine.jobs.session import opened

    with contextlib.ExitStack() as stack:
        work: _Work | None = None
        for order in member.orders():
            if order["do"] == "begin":
                stack.close()
                journal = Quiet(run, member.cancel, member.hear)
                job = from_record(JobRecord.from_json(order["job"]))
                session = stack.enter_context(opened(run, journal, member.cancel, member, order["threads"]))
                member.opened(session)
                work = stack.enter_context(contextlib.closing(_Work(session, job, member.rank)))
            elif work is not None:
                work.do(order)
            member.say(phase="waiting", step=0, steps=0)


class _Work:
    """What a rank does of one job."""

    def __init__(self, session: Any, job: Job, rank: int):
        self.session, self.job, self.rank = session, job, rank
        self.trained_along: Any = None  # digests and trajectory, in memory mode
        self.trained: Any = None
        if session.manifest.trained:
            self.reopen()  # while rank 0 does the same

    def reopen(self) -> Any:
        from engine.jobs.reopen import reopen

        self.trained = self.trained or reopen(self.session)
        return self.trained

    def do(self, order: dict) -> None:
        if not self.session.manifest.trained:  # by now it may be
            compiled = {k: v for k, v in vars(self.session).items() if k in ("forwards", "_backwards")}
            self.session = dataclasses.replace(self.session, manifest=self.session.run.manifest())
            vars(self.session).update(compiled)
        {"train": self.train, "replay": self.replay, "retrain": self.retrain}[order["do"]](order)

    def train(self, order: dict) -> None:
        from engine.core.training import train

        session = self.session
        digests = session.digests()
        trajectory = session.trajectory("memory", digests)
        self.trained_along = digests, trajectory
        meter = session.journal.phase("train", session.steps)
        train(
            session.model,
            session.stream,
            trajectory=trajectory,
            on_progress=meter.report,
            before_step=session.check_cancelled,
            passes=session.forwards,
        )

    def replay(self, order: dict) -> None:
        from engine.jobs.reopen import check_steps
        from engine.jobs.replay import Replay, Scoring

        session, passes = self.session, order["shares"][self.rank]
        if not passes:
            return
        job = Replay(tuple(order["targets"]), order["function"], order["mode"])
        trained = self.reopen()
        if self.trained_along is not None:
            digests, trajectory = self.trained_along
            if any(trained.digests.known.get(t, sha) != sha for t, sha in digests.known.items()):
                raise IntegrityError(
                    "The training of this rank went through other states than that of rank 0.",
                    "Let all hosts have the same version of this project, of its libraries and of the data.",
                )
            Scoring.begun(session, job, trained).replay_passes(trajectory, passes)
            return
        with contextlib.closing(session.trajectory(job.mode, trained.digests)) as trajectory:
            check_steps(session, trajectory)
            Scoring.begun(session, job, trained).replay_passes(trajectory, passes)

    def retrain(self, order: dict) -> None:
        from engine.jobs.retrained import groups_of, kept, train_groups
        from engine.jobs.validation import Validate

        assert isinstance(self.job, Validate)
        session, keys, rows = self.session, order["keys"], order["rows"]
        if not order["shares"][self.rank]:
            return
        repeats = sum(key.startswith("all-") for key in keys)
        changes = self.job.changes(session.stream.data.n, order["width"], repeats)
        groups = [groups_of(keys, order["width"])[g] for g in order["shares"][self.rank]]
        train_groups(session, changes, groups, rows, kept(session, changes, rows))

    def close(self) -> None:
        if self.trained_along is not None:
            self.trained_along[1].close()
