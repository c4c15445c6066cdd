"""What retrainings did, as their reports tell it: wherever a what-if is shown when it is done."""

import streamlit as st

from engine.analysis import trust
from engine.analysis import what_if as what_ifs
from engine.datasets.base import Dataset
from engine.jobs.what_if import WhatIf
from ui import formats, gallery, paging, shell
from ui.run_choice import RunView
from ui.text import line, plain

A_PAGE = 12  # test images whose predicted label changed
MOST_CLASSES = 20  # of which losses are shown, those that changed most


def report_of(run: RunView, job: WhatIf) -> dict | None:
    """The last report of this very retraining."""
    relabelled = {str(index): label for index, label in job.relabelled}
    reports = [
        report
        for report in trust.what_ifs(run.manifest)
        if report["left_out"] == list(job.left_out) and report["relabelled"] == relabelled
    ]
    return reports[-1] if reports else None


def draw_all(run: RunView) -> None:
    """The run's retrainings in one table, the last first: what is to be compared with each other."""
    reports = trust.what_ifs(run.manifest)
    if not reports:
        return
    with st.expander(f"Retrainings so far: {len(reports):,}", key="retrainings"):
        st.table([_row(report) for report in reversed(reports)])


def _row(report: dict) -> dict[str, str]:
    test = report.get("test") or {}
    before, after = report["test_accuracy_before"], report["test_accuracy"]
    return {
        "Changed": plain(formats.changed(report)),
        "Test accuracy": f"{formats.percent(before)} → {formats.percent(after)}",
        "Right only now": f"{test['corrected']:,}" if test else "—",
        "Right only before": f"{test['spoiled']:,}" if test else "—",
    }


def draw_what_if(run: RunView, report: dict, key: str) -> None:
    """The test set before and after a retraining (of `trust.what_ifs`): its accuracy, the loss of each class, and the
    images that have another predicted label. `key` tells what is drawn twice on a page apart."""
    before, after = report["test_accuracy_before"], report["test_accuracy"]
    figures = {
        "Test accuracy before": formats.percent(before),
        "Retrained": formats.percent(after),
        "Change": f"{formats.signed(100 * (after - before), 1)} points",
    }
    test = report.get("test")
    if test is None:
        shell.metrics(figures)
        st.caption(
            "An older version wrote this report, without the test images: after another retraining they are here."
        )
        return
    shell.metrics({**figures, "Right only now": f"{test['corrected']:,}", "Right only before": f"{test['spoiled']:,}"})
    changed = what_ifs.changed_images(report, run.dataset)
    with st.expander(f"Test images with another predicted label: {test['changed']:,}", key=f"changed-{key}"):
        _draw_changed(run.dataset, changed, test["changed"], key)
    with st.expander("Loss by class, before and after", key=f"classes-{key}"):
        draw_classes(run.dataset, test)


def _draw_changed(dataset: Dataset, changed: list[what_ifs.Changed], of: int, key: str) -> None:
    if not changed:
        st.caption("Every test image has the label that it had.")
        return
    shown = f"The {len(changed):,} whose true label's probability changed most" if of > len(changed) else "All of them"
    st.caption(f"{shown}, the largest change first.")
    page = paging.choose(len(changed), f"changed-page-{key}", A_PAGE, name=None)
    tiles = [tile(dataset, each) for each in paging.of_page(changed, page, A_PAGE)]
    gallery.show(dataset, tiles, f"changed-images-{key}", size=84)


def tile(dataset: Dataset, changed: what_ifs.Changed) -> gallery.Tile:
    """A test image that has another predicted label."""
    label = int(dataset.test_labels[changed.index])
    name = line(dataset.classes[label])
    was, now = (line(dataset.classes[each]) for each in (changed.before, changed.after))
    mark = "✓ right now" if changed.after == label else "✗ wrong now" if changed.before == label else "wrong still"
    lines = (mark, f"was: {was}", f"now: {now}")
    details = (
        ("Image", f"test:{changed.index}"),
        ("True label", name),
        ("Predicted before", was),
        ("Predicted, retrained", now),
        ("Probability of the true label before", formats.percent(changed.probability_before)),
        ("Probability of the true label, retrained", formats.percent(changed.probability_after)),
    )
    return gallery.Tile("test", changed.index, name, lines, details)


def draw_classes(dataset: Dataset, test: dict) -> None:
    """The mean loss of each class's test images, of `what_ifs.on_test`."""
    rows = [
        (name, before, after)
        for name, before, after in zip(dataset.classes, test["loss_before"], test["loss_after"], strict=False)
        if before is not None and after is not None
    ]
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: -abs(row[2] - row[1]))[:MOST_CLASSES]
        st.caption(f"The {MOST_CLASSES} classes whose loss changed most.")
    st.table(
        [
            {
                "Class": plain(name),
                "Before (nats)": formats.figure(before, 3),
                "Retrained (nats)": formats.figure(after, 3),
                "Change": formats.signed(after - before),
            }
            for name, before, after in rows
        ]
    )
