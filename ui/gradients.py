"""Gradient norms of the test images on a page: how much there is to explain, known before any replay."""

import numpy as np
import streamlit as st

from engine import files
from engine.errors import IntegrityError
from engine.jobs import gradient_norms as jobs
from ui import formats, shell
from ui.run_choice import RunView


def of(run: RunView) -> np.ndarray | None:
    """float32 [N_test], where they were measured; a damaged file is said, and can be measured again."""
    try:
        norms = run.manifest.gradient_norms()
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return None
    return norms if norms is not None and norms.shape == run.dataset.test_labels.shape else None


def draw_measuring(run: RunView) -> None:
    """The button that has them measured, with what that takes."""
    if files.read_only() or run.manifest.method:
        return
    takes = jobs.seconds(run.manifest, len(run.dataset.test_labels))
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Measure the gradient norms",
            icon=":material/straighten:",
            key="measure-gradients",
            **shell.acting(run.manifest.in_progress, formats.help_text("gradient norm"), run.manifest),
        ):
            shell.submit(run.id, jobs.GradientNorms())
        about = "" if takes is None else f", in about {formats.duration(max(1.0, takes))}"
        st.caption(f"They say, before any replay{about}, of which test images there is little to explain.")


def line(norms: np.ndarray | None, index: int) -> tuple[str, ...]:
    """Below a tile; none where they are not known."""
    return () if norms is None else (f"gradient {formats.rounded(float(norms[index]))}",)


def detail(norms: np.ndarray | None, index: int) -> list[tuple[str, str]]:
    """Beside an enlarged image; none where they are not known."""
    if norms is None:
        return []
    share = formats.percent(float((norms < norms[index]).mean()))
    return [("Gradient norm of its loss", f"{formats.rounded(float(norms[index]))}, above {share} of the test images'")]
