"""What came of a run's last jobs, by their kind: each its own result, and the link back to where it was asked for.

A kind that is not in `DRAW` has a default: what it left, by name, and the pages that show it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import streamlit as st

from engine.analysis import certainty, duplicates, features, maps, stability, target_view, trust
from engine.analysis import self_influence as self_influences
from engine.analysis.suspects import SELF
from engine.analysis.test_images import BY_GRADIENT
from engine.errors import ReplayError
from engine.jobs import correct
from engine.jobs import export as export_jobs
from engine.jobs.registry import from_record
from engine.runs import uploads
from engine.runs.events import TERMINAL
from engine.runs.job import JobRecord
from engine.runs.scores import TargetRef
from engine.targets import TRAIN, AllTests, Target, UploadedImage, target_function
from ui import export_form, formats, outcomes, pictures, removal_curve, shell
from ui.run_choice import RunView
from ui.text import plain

PICTURED = 12  # targets that are shown with a picture; the others stand on Influence


@dataclass(frozen=True)
class Done:
    """A job that is done, as the log tells it: its kind and fields, what it left by name, and where it was asked for
    (the page's label, and the key of the target in view there; empty where nobody said)."""

    kind: str
    fields: Mapping
    scores: str | None = None
    reports: tuple[str, ...] = ()
    asked_on: str = ""
    asked_about: str = ""


# -- from the log


def doing(record: JobRecord) -> str:
    """What a job does, in words; of a kind that is not known here, its name."""
    try:
        return from_record(record).doing()
    except ReplayError:  # of a newer version, or damaged
        return f"Doing the job «{record.kind}»" if record.kind else "At work"


def last(log: Iterable[dict]) -> list[Done]:
    """The jobs that were done since somebody last started something, in their order."""
    done: list[Done] = []
    asked: dict[str, tuple[str, str]] = {}  # by kind of job
    kind, ended = "", False
    for event in log:
        what = event["kind"]
        if what == "queued" or (what == "started" and ended):
            done, ended = [], False
        if what == "queued" and "asked_on" in event:  # a resumption was asked for on Live, and its job before
            asked[event.get("job", "")] = event["asked_on"], event.get("asked_about", "")
        elif what == "started":
            kind = event.get("job", "")
        elif what == "done":
            left = event.get("scores"), tuple(event.get("reports", ()))
            done.append(Done(event["job"], event.get("fields", {}), *left, *asked.get(event["job"], ("", ""))))
        elif what in TERMINAL:
            ended = True
            if what == "finished" and not done and kind:  # written before jobs said that they were done
                done = [Done(kind, {}, event.get("scores"))]
    return done


# -- on the page


def draw(run: RunView, done: Done) -> None:
    """One job's result. What was deleted since is said."""
    with shell.guarded():
        DRAW.get(done.kind, draw_any)(run, done)


def draw_explained(run: RunView, done: Done) -> None:
    refs = [ref for ref in run.targets.values() if ref.score_set == done.scores]
    if not refs:
        say_gone("scores", run)
        return
    st.success("Finished: the scores are ready.", icon=":material/check:")
    st.markdown(f"**{formats.count(len(refs), 'targets')} explained.** Choose one to see what helped and harmed it:")
    with st.container(horizontal=True, gap="medium", key=f"targets-{done.scores}"):
        for ref in refs[:PICTURED]:
            draw_target(run, ref)
    if refs[PICTURED:]:
        st.caption(f"And {len(refs) - PICTURED:,} more, which *Influence* lists.")
    with st.container(horizontal=True):
        to("Influence", "Look at the influence", "image_search", run, target=refs[0].key)
        if done.asked_on == "Find bad labels" or any(isinstance(ref.target, AllTests) for ref in refs):
            to("Find bad labels", "Find bad labels with these scores", "label_off", run)
        to("Trust", "Look at the trust report", "verified", run)
        for before in correct.runs_before(run.manifest, shell.all_runs())[:1]:
            st.page_link(
                "pages/Triage.py",
                label="Compare it with the run before the corrections",
                icon=":material/compare_arrows:",
                query_params={"run": before.id},
            )


def draw_target(run: RunView, ref: TargetRef) -> None:
    """Its picture, of a set its first image, what the model says of it, and the link to its influence."""
    view = target_view.view(run.manifest, run.dataset, ref.target, ref.function)
    classes = run.dataset.classes
    with st.container(width=140, gap="small"):
        st.html(f'<div style="width:84px">{target_picture(run, view)}</div>')
        if view.several:
            st.caption(f"{formats.count(len(view.members), 'images')}, {formats.percent(view.accuracy)} right")
        else:
            right = view.predicted_label == view.true_label
            mark = ":material/check: right" if right else ":material/close: wrong"
            st.caption(f"{mark}: {plain(classes[view.predicted_label])}")
        to("Influence", plain(ref.target.title(run.dataset)), "", run, target=ref.key)


def target_picture(run: RunView, view: target_view.TargetView) -> str:
    """HTML."""
    if isinstance(view.target, UploadedImage):
        return pictures.array_picture(uploads.read(run.folder, view.target.image_id), view.title, 84)
    split = TRAIN if view.members.split == TRAIN else "test"
    return pictures.picture(run.dataset, split, int(view.members.indices[0]))


def draw_what_if(run: RunView, done: Done) -> None:
    report = next((each for each in trust.what_ifs(run.manifest) if each["name"] in done.reports), None)
    if report is None:
        say_gone("report", run)
        return
    st.success(f"Trained again: {plain(formats.changed(report))}.", icon=":material/check:")
    targets = {target["key"]: target for target in certainty.with_errors(report, run.manifest)}
    asked = targets.get(done.asked_about) or next(iter(targets.values()), None)
    if asked is not None:
        title = plain(Target.parse(asked["name"]).title(run.dataset))
        words = target_function(asked["function"]).in_words(run.dataset.classes)
        st.markdown(f"**{title}** · {plain(words)}")
        st.markdown(plain(formats.what_if_change(asked, run.dataset.classes)))
        st.table(formats.what_if_table(asked, run.dataset.classes))
        if told := formats.error_in_words(asked):
            st.caption(plain(told))
    outcomes.draw_what_if(run, report, report["name"])
    with st.container(horizontal=True):
        if asked is not None:
            to("Influence", f"What if? on {title}", "science", run, target=asked["key"])
        if done.asked_on == "Themes" and asked is not None:
            to("Themes", "Back to the theme, and what leaving it out did", "category", run, target=asked["key"])
        if done.asked_on == "Find bad labels":
            to("Find bad labels", "Back to Find bad labels", "label_off", run)
        to("Trust", "All that was tried, on Trust", "verified", run)


def draw_removal(run: RunView, done: Done) -> None:
    ref = removal_curve.draw_done(run, done.reports)
    if ref is None:
        say_gone("report", run)
        return
    to("Influence", f"Removal curve on {plain(run.titles[ref.key])}", "show_chart", run, target=ref.key)


def draw_gradients(run: RunView, done: Done) -> None:
    norms = run.manifest.gradient_norms()
    if norms is None:
        say_gone("gradient norms", run)
        return
    st.success(
        f"Measured: the gradient norms of {len(norms):,} test images, from {formats.rounded(float(norms.min()))} to "
        f"{formats.rounded(float(norms.max()))}.",
        icon=":material/check:",
    )
    to("Test images", "Test images by how much there is to explain", "grid_view", run, order=BY_GRADIENT[0])


def draw_checked(run: RunView, done: Done) -> None:
    """Of a validation or of the smoothness: what is known by now of how far to rely on the scores."""
    verdict = trust.verdict(run.manifest, run.dataset.sizes.n_train)
    step = verdict.step
    more = "" if step is None else step.in_words("" if step.seconds is None else formats.duration(step.seconds))
    level = verdict.level[0].upper() + verdict.level[1:]
    st.success(f"Checked. **{level}.** {plain(verdict.reason)} {plain(more)}", icon=":material/check:")
    to("Trust", "Look at the trust report", "verified", run)


def draw_curvature(run: RunView, done: Done) -> None:
    st.success(
        f"Measured the curvature by step. {plain(stability.of_run(run.manifest).in_words())}", icon=":material/check:"
    )
    to("Trust", "Look at where it breaks, on Trust", "timeline", run)


def draw_self_influence(run: RunView, done: Done) -> None:
    known = self_influences.known(run.manifest)
    if known is None:
        say_gone("scores", run)
        return
    st.success(
        f"Finished: the self-influence of {formats.count(len(known.images), 'training images')} is known.",
        icon=":material/check:",
    )
    with st.container(horizontal=True):
        to("Self-influence", "See the most memorised", "fingerprint", run)
        to("Find bad labels", "Judge their labels, in this order", "label_off", run, order=SELF)


def draw_features(run: RunView, done: Done) -> None:
    computed = features.read(run.manifest)
    if computed is None:
        say_gone("features", run)
        return
    images, numbers = len(computed.train) + len(computed.test), computed.train.shape[1]
    st.success(
        f"Finished: the features of {images:,} images, {numbers:,} numbers each, are known.", icon=":material/check:"
    )
    to("Map", "Look at the map", "scatter_plot", run, source="features")


def draw_umap(run: RunView, done: Done) -> None:
    source = str(done.fields.get("source", ""))
    if f"{maps.FOLDER}/umap-{source}-train.npy" not in run.manifest.files:
        say_gone("map", run)
        return
    st.success("Finished: the map is drawn.", icon=":material/check:")
    to("Map", "Look at the map", "scatter_plot", run, source=source, method="umap")


def draw_duplicates(run: RunView, done: Done) -> None:
    by = str(done.fields.get("by", ""))
    found = duplicates.known(run.manifest, by)
    if found is None:
        say_gone("duplicates", run)
        return
    st.success(plain(" ".join(duplicates.in_words(found))), icon=":material/check:")
    to("Duplicates", "Look at the duplicates", "content_copy", run, by=by)


def draw_rebuilt(run: RunView, done: Done) -> None:
    st.success(
        "Finished: the checkpoints are complete, and further targets are replayed without training first.",
        icon=":material/check:",
    )
    with st.container(horizontal=True):
        to("Test images", "Choose further targets by looking", "grid_view", run)
        to("Runs and storage", "Back to Runs and storage", "database", run)


def draw_exported(run: RunView, done: Done) -> None:
    there = [name for name in done.reports if name in export_jobs.of_run(run.folder, run.manifest.files)]
    if not there:
        say_gone("export", run)
        return
    st.success("Finished: the export is written.", icon=":material/check:")
    for name in there:
        export_form.draw_download(run, name, "live")
    to("Runs and storage", "All exports, on Runs and storage", "database", run)


def draw_any(run: RunView, done: Done) -> None:
    """Of a kind that a user registered, or that an older version named otherwise."""
    if done.scores is not None:
        draw_explained(run, done)
        return
    left = f" It wrote {plain(', '.join(done.reports))}." if done.reports else ""
    st.success(f"Finished: the job «{plain(done.kind)}».{left}", icon=":material/check:")
    if run.targets:
        to("Influence", "Look at the influence", "image_search", run)
        to("Trust", "Look at the trust report", "verified", run)


DRAW: dict[str, Callable[[RunView, Done], None]] = {
    "run": draw_explained,
    "replay": draw_explained,
    "what-if": draw_what_if,
    "removal": draw_removal,
    "gradient-norms": draw_gradients,
    "validate": draw_checked,
    "smoothness": draw_checked,
    "curvature": draw_curvature,
    "rebuild": draw_rebuilt,
    "self-influence": draw_self_influence,
    "features": draw_features,
    "umap": draw_umap,
    "duplicates": draw_duplicates,
    "export": draw_exported,
}


def say_gone(what: str, run: RunView) -> None:
    verb = "were" if what.endswith("s") else "was"
    st.info(f"Finished. The {what} of this job {verb} deleted, or made anew since.", icon=":material/info:")
    if run.targets:
        to("Influence", "Look at the influence", "image_search", run)


def to(page: str, label: str, icon: str, run: RunView, **more: str) -> None:
    """A link to a page, which shows this run."""
    st.page_link(
        f"pages/{page.replace(' ', '_').replace('-', '_')}.py",
        label=label,
        icon=f":material/{icon}:" if icon else None,
        query_params={"run": run.id, **more},
    )
