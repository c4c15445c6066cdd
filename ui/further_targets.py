"""Scores of more targets of a run: from its kept trajectory, or after training once more."""

import streamlit as st

from engine.analysis import target_view
from ui import explain, imported, targets_form
from ui.run_choice import RunView
from ui.text import line

SUGGESTED = 24  # misclassified images that are offered


def draw(run: RunView) -> None:
    if run.manifest.method:
        imported.say(run.manifest, "explaining further targets")
        return
    with st.expander("Explain further targets of this run"):
        titles = _suggested(run)
        names = st.multiselect(
            "Targets",
            list(titles),
            format_func=lambda name: line(titles.get(name, name)),
            accept_new_options=True,
            placeholder="Choose, or type test:0-9, train:17 or confusion:coat>shirt",
            help=targets_form.HELP,
        )
        explain.choose(run, tuple(names), "further", "Replay for these targets")
        st.page_link(
            "pages/Test_images.py",
            label="Or choose them by looking, or bring an image of your own",
            icon=":material/grid_view:",
            query_params={"run": run.id},
        )


def _suggested(run: RunView) -> dict[str, str]:
    """Titles by name: images that the model gets wrong, and sets."""
    dataset = run.dataset
    wrong = target_view.misclassified(run.manifest, dataset)[:SUGGESTED].tolist()
    return {
        **{f"test:{i}": f"test:{i} · {dataset.classes[dataset.test_labels[i]]}, misclassified" for i in wrong},
        **{f"class:{c}": f"class:{c} · all test images of {name}" for c, name in enumerate(dataset.classes)},
        "test:all": "test:all · all test images",
    }
