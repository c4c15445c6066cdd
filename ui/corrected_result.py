"""What training again on corrected data did: the run beside the one whose labels were corrected, on the test images."""

from dataclasses import dataclass

import streamlit as st

from engine.analysis import what_if as what_ifs
from engine.analysis.what_if import Changed
from engine.datasets import corrected
from engine.jobs import correct
from engine.runs.run import Run, Summary
from engine.targets import TestImage
from ui import formats, gallery, link, outcomes, paging, run_choice, run_names, shell
from ui.run_choice import RunView
from ui.text import line, plain

KINDS = {"right": "Wrong → right", "wrong": "Right → wrong", "other": "Another wrong label"}


@dataclass(frozen=True)
class Result:
    """Two trained runs, the second on corrections of the first's data, and what `what_ifs.on_test` says of both."""

    before: RunView
    after: RunView
    test: dict
    recipe: corrected.Recipe


def between(before: RunView, after: RunView) -> Result:
    """Raises `DataError` or `IntegrityError` where one of the two cannot be read."""
    test = what_ifs.on_test(before.manifest.test_logits(), after.manifest.test_logits(), before.dataset.test_labels)
    return Result(before, after, test, corrected.read(after.manifest.config.dataset))


def draw_all(run: RunView) -> None:
    """Each run that was trained on corrections of this one's data, the newest first; nothing where there is none."""
    runs = correct.runs_of(run.manifest, shell.all_runs())
    if not runs:
        return
    st.header("Trained again with corrections")
    names = run_names.labels(runs)
    for number, summary in enumerate(runs):
        with st.expander(_title(run, summary, names), expanded=number == 0, key=f"corrected-{summary.id}"):
            with shell.guarded():
                _draw(run, summary)


def draw_before(run: RunView) -> None:
    """Of a run on corrected data: the way to what it is beside."""
    befores = correct.runs_before(run.manifest, shell.all_runs())
    if befores:
        names = run_names.labels(befores)
        st.caption("This run was trained on corrected data. The runs before that:")
        for before in befores[:3]:
            st.page_link(
                "pages/Triage.py",
                label=plain(names[before.id]),
                query_params={"run": before.id},
                icon=":material/compare_arrows:",
            )


def _title(run: RunView, summary: Summary, names: dict[str, str]) -> str:
    before, after = run.manifest.test_accuracy, summary.test_accuracy
    if not summary.trained or before is None or after is None:
        return plain(f"{names[summary.id]}: {summary.status}")
    return plain(
        f"{names[summary.id]}: test accuracy {formats.percent(before)} → {formats.percent(after)} "
        f"({formats.signed(100 * (after - before), 1)} points)"
    )


def _draw(run: RunView, summary: Summary) -> None:
    if not summary.trained:
        st.caption(plain(f"It is {summary.status}, and is compared once it is trained."))
        run_choice.link_to_live(RunView.of(Run.open(shell.root(), summary.id)))
        return
    if not {"model/test_logits.npy"} <= run.manifest.files.keys():
        st.caption("This run has no answers of its model for the test images, so that nothing can be compared.")
        return
    draw(between(run, RunView.of(Run.open(shell.root(), summary.id))))


def draw(result: Result) -> None:
    """Accuracy, the test images whose predicted label changed, and the loss of each class."""
    record, test, recipe = result.after.manifest, result.test, result.recipe
    st.caption(
        f"Trained on {formats.count(len(recipe.labels), 'other labels')} and without "
        f"{formats.count(len(recipe.excluded), 'images')}, as a run of its own, beside this one."
    )
    before, after = result.before.manifest.test_accuracy or 0.0, record.test_accuracy or 0.0
    n = len(result.before.dataset.test_labels)
    shell.metrics(
        {
            "Test accuracy before": formats.percent(before),
            "With the corrections": formats.percent(after),
            "Change": f"{formats.signed(100 * (after - before), 1)} points",
            "Wrong → right": f"{test['corrected']:,} of {n:,}",
            "Right → wrong": f"{test['spoiled']:,} of {n:,}",
        }
    )
    st.caption(
        "Two trainings of one recipe differ by chance as well: a change of a few images says little. *Compare runs* "
        "and a repetition with other seeds tell more."
    )
    with st.container(horizontal=True):
        st.page_link(
            "pages/Influence.py",
            label="Its influences",
            icon=":material/image_search:",
            query_params={"run": result.after.id},
        )
        st.page_link(
            "pages/Compare_runs.py",
            label="Compare the scores of both",
            icon=":material/compare_arrows:",
            query_params={"run": result.before.id, "other": result.after.id},
        )
    _draw_changed(result)
    with st.expander("Loss by class, before and after", key=f"corrected-classes-{result.after.id}"):
        outcomes.draw_classes(result.before.dataset, test)


def _draw_changed(result: Result) -> None:
    report = {"name": result.after.id, "test": result.test}
    changed = what_ifs.changed_images(report, result.before.dataset)
    labels = result.before.dataset.test_labels
    of_kind: dict[str, list[Changed]] = {kind: [] for kind in KINDS}
    for each in changed:
        label = int(labels[each.index])
        of_kind["right" if each.after == label else "wrong" if each.before == label else "other"].append(each)
    for kind, images in of_kind.items():
        if images:
            title = f"{KINDS[kind]}: {formats.count(len(images), 'test images')}"
            key = f"corrected-{kind}-{result.after.id}"
            with st.expander(title, key=f"row-{key}", expanded=kind != "other"):
                page = paging.choose(len(images), f"{key}-page", outcomes.A_PAGE, name=None)
                tiles = [_tile(result, each) for each in paging.of_page(images, page, outcomes.A_PAGE)]
                gallery.show(result.before.dataset, tiles, key, size=84)


def _tile(result: Result, changed: Changed) -> gallery.Tile:
    """As after a what-if, with the way to what explains it in the run after."""
    tile = outcomes.tile(result.before.dataset, changed)
    scored = next((key for key, ref in result.after.targets.items() if ref.target == TestImage(changed.index)), None)
    if scored is not None:
        address, text = link.to("Influence", run=result.after.id, target=scored), "Which images do that"
    else:
        address, text = link.to("Test_images", run=result.after.id, ticked=changed.index), "Explain it"
    return gallery.Tile(**{**vars(tile), "link": address, "link_text": line(text)})
