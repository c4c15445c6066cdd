"""Further targets of a run: which function of them, and how the replay gets its states."""

from collections.abc import Callable

import streamlit as st

from engine.analysis import cost
from engine.config import REPLAY_MODES
from engine.jobs.parts import TARGETS_A_PART
from engine.jobs.replay import Replay
from ui import formats, shell, targets_form
from ui.run_choice import RunView


def choose(
    run: RunView,
    targets: tuple[str, ...],
    key: str,
    label: str = "Explain these",
    make: Callable[[], tuple[str, ...]] | None = None,
) -> None:
    """What a replay of `targets` needs, and the button that starts it; `make` gives them only then, where they must
    be made first."""
    ready = [mode for mode, at_once in run.manifest.modes().items() if at_once]
    function_side, mode_side = st.columns(2)
    with function_side:
        function = targets_form.choose_function(run.dataset.classes, key)
    mode = mode_side.selectbox(
        "Replay mode",
        REPLAY_MODES,
        index=REPLAY_MODES.index(run.manifest.kept_mode or "memory"),
        key=f"mode-{key}-{run.id}",
        format_func=lambda m: f"{m}: begins at once" if m in ready else f"{m}: trains once more first",
    )
    at_once = (
        f"Ready: {' and '.join(ready)} mode, from the checkpoints on disk."
        if ready
        else "This run keeps no checkpoints."
    )
    st.caption(
        f"{at_once} {'Another mode' if ready else 'Every mode'} trains once more first, to the same states: "
        "they are checked against the digests recorded in training."
    )
    draw_cost(run, len(targets))
    if st.button(
        label,
        type="primary",
        icon=":material/play_arrow:",
        key=f"explain-{key}",
        **shell.acting(not (targets or make), model_of=run.manifest),
    ):
        shell.submit(run.id, Replay(make() if make else targets, function, mode))


def draw_cost(run: RunView, targets: int) -> None:
    """What a replay of so many targets will take, before it is started."""
    took = cost.replay_seconds(run.manifest, targets)
    if targets and took is not None:
        in_parts = " They are done in parts, each shown as soon as it is done." if targets > TARGETS_A_PART else ""
        st.caption(
            f"About {formats.duration(took)} for {formats.count(targets, 'targets')}, as replays of this run went so "
            f"far.{in_parts}"
        )
