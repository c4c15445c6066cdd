"""Repeating a run with other seeds, from whatever page thinks of it; and the group that a run belongs to, on *Live*."""

import streamlit as st

from engine import files, space
from engine.errors import ReplayError
from engine.jobs import repeat
from engine.runs import notes
from engine.runs.manifest import IN_PROGRESS
from engine.runs.run import Run, Summary
from ui import formats, shell
from ui.run_choice import RunView
from ui.text import plain

WHAT = (
    "The scores of a run explain its own training. Which images matter in **any** training of the recipe, several "
    "trainings say together: the same data, targets and settings, another seed each, so other first weights and "
    "another order of the images."
)


# -- the action


def draw_form(run: RunView, opened: bool = False) -> None:
    """The action, folded away unless `opened`: what there is already stands in the records of all runs, which are read
    where a person looks."""
    if files.read_only() or not run.manifest.has_model or not run.manifest.trained:
        return
    with st.expander(
        "Repeat with other seeds",
        icon=":material/casino:",
        expanded=opened,
        key=f"repeat-{run.id}",
        on_change="rerun",
    ) as form:
        if form.open:
            with shell.guarded():
                draw_choices(run)


def draw_choices(run: RunView) -> None:
    """How many trainings, what the others cost, and the button."""
    st.caption(WHAT)
    group = notes.group_of(run.folder)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = st.number_input(
            "Trainings in all",
            repeat.FEWEST,
            repeat.MOST,
            max(repeat.PROPOSED, len(group.seeds) if group else 0),
            key=f"seeds-{run.id}",
            width=160,
            help="With this run's own. Means of four agree far better than single trainings; of eight, better still.",
        )
        validated = any(name.startswith("validation/lds-") for name in run.manifest.files)
        validate = validated and st.checkbox(
            "Validate each as this run was",
            True,
            key=f"validate-seeds-{run.id}",
            help="Without the same random subsets. It tells how far the mean foretells trainings of other seeds.",
        )
    draw_plan(repeat.plan(run.folder, int(count), bool(validate)))


def draw_plan(plan: repeat.Plan) -> None:
    there = [member for member in plan.members[1:] if member.run is not None]
    if there:
        seeds = ", ".join(str(member.seed) for member in there)
        st.caption(f"There already, and not trained again: seed {seeds}.")
    if not plan.open:
        busy = any(member.busy for member in plan.members)
        st.caption("The others are in progress." if busy else "All of them are there, with all targets of this run.")
        return
    free = space.disk_free(plan.of.root)
    st.markdown(
        f"To do: {plain(plan.cost.in_words())}. Disk: **{formats.size(plan.cost.bytes)}** more, of "
        f"{formats.size(free)} that are free."
    )
    if plan.cost.bytes + space.RESERVE > free:
        st.warning(
            "That does not fit: the runs would wait for space. Delete checkpoints in Runs and storage first.",
            icon=":material/hard_drive:",
        )
    if st.button("Repeat with other seeds", icon=":material/casino:", key="repeat", **shell.acting()):
        start(plan)


def start(plan: repeat.Plan) -> None:
    """Queues all of it, and goes on to *Live*, which shows the first."""
    ids = repeat.prepare(plan)
    for run_id in ids:
        shell.queue().resume(run_id)
    if ids:
        st.switch_page("pages/Live.py", query_params={"run": ids[0]})
    st.rerun()


# -- the group


def members(run: Run) -> tuple[notes.SeedGroup, dict[int, Summary | None]] | None:
    """The group of a run, and its runs as they stand; None where it is alone."""
    group = notes.group_of(run)
    return None if group is None else (group, repeat.members(run.root, group, shell.all_runs()))


def draw_on_live(run: RunView) -> None:
    """`draw_members`, followed while any of them is in progress, whether or not this run is."""
    found = members(run.folder)
    if found is None or run.manifest.config.recipe.seed not in found[0].seeds:
        return
    at_work = any(summary is not None and summary.status in IN_PROGRESS for summary in found[1].values())
    st.fragment(follow, run_every="2s" if at_work else None)(run, at_work)


def follow(run: RunView, was_at_work: bool) -> None:
    with shell.guarded():
        if draw_members(run) != was_at_work:
            st.rerun()  # the whole page: the clock starts or stops


def draw_members(run: RunView) -> bool:
    """«Seed 2 of 4», where the others stand, and what can be done with all of them. Returns whether any is at work."""
    found = members(run.folder)
    if found is None:  # its notes were deleted meanwhile
        return False
    (group, runs), own = found, run.manifest.config.recipe.seed
    place = group.seeds.index(own) + 1
    with st.container(border=True):
        st.markdown(
            f"**Seed {place} of {len(group.seeds)}:** trainings of one recipe, whose scores are averaged. This one has "
            f"seed {own}."
        )
        with st.container(horizontal=True, gap="medium"):
            for seed, summary in runs.items():
                if summary is None:
                    st.caption(f"Seed {seed}: deleted", width="content")
                elif summary.id == run.id:
                    st.caption(f"**Seed {seed}: {plain(status(summary))}**", width="content")
                else:
                    label = f"Seed {seed}: {plain(status(summary))}"
                    st.page_link("pages/Live.py", label=label, query_params={"run": summary.id})
        draw_actions(run, [summary for summary in runs.values() if summary is not None])
    return any(summary is not None and summary.status in IN_PROGRESS for summary in runs.values())


def status(summary: Summary) -> str:
    return summary.status if summary.status != "finished" or not summary.resumable else "something left to do"


def draw_actions(run: RunView, runs: list[Summary]) -> None:
    """Stop or resume all, and see what there is by now."""
    engine = shell.queue()
    ids = {summary.id for summary in runs}
    active = [run_id for run_id in engine.active() if run_id in ids]
    stopped = [summary.id for summary in runs if summary.resumable and summary.id not in active]
    with st.container(horizontal=True, vertical_alignment="center"):
        if active[1:] and st.button(
            "Stop all seeds", icon=":material/stop_circle:", key="stop-seeds", **shell.acting()
        ):
            for run_id in reversed(active):  # the last first, so that none begins
                engine.cancel(run_id)
            st.rerun()
        if stopped[1:] and st.button(
            f"Resume {len(stopped)} seeds", icon=":material/resume:", key="resume-seeds", **shell.acting()
        ):
            resume(stopped)
        ready = sum(summary.scored for summary in runs)
        if ready > 1:
            st.page_link(
                "pages/Compare_runs.py",
                label=f"Mean over {ready} seeds{'' if ready == len(runs) else ' so far'}",
                icon=":material/functions:",
                query_params={"run": run.id, "view": "seeds"},
            )


def resume(run_ids: list[str]) -> None:
    """One that cannot go on, for another program has it or nothing is left, does not stop the others."""
    for run_id in run_ids:
        try:
            shell.queue().resume(run_id)
        except ReplayError as error:
            shell.show_error_once(error.what, error.remedy)
    st.rerun()
