"""Set up a run: data, model, recipe, targets, and where the steps are kept; what it will take stands below, always."""

import streamlit as st

from engine import files
from ui import (
    setup_data,
    setup_draft,
    setup_estimate,
    setup_mode,
    setup_model,
    setup_probe,
    setup_recipe,
    setup_start,
    setup_targets,
    shell,
)

with shell.page("Set up a run"):
    if files.read_only():
        st.info("This app shows runs and starts none: the form can be read, and not filled in.", icon=":material/info:")
    setup_start.choose()
    dataset = setup_data.load()
    form = setup_draft.form_of(setup_draft.now(), dataset, files.read_only())

    st.header("1 Data")
    setup_data.draw(form)

    st.header("2 Model")
    setup_model.draw(form)

    st.header("3 Recipe")
    setup_recipe.draw(form)
    preview = st.container()
    setup_recipe.draw_advanced(form)
    trust = st.container()

    st.header("4 Targets")
    setup_targets.draw(form)

    st.header("5 Mode and cost")
    setup_mode.choose(form)
    modes = st.container()
    setup_mode.draw_advanced(form)

    # What needs the engine comes last: nothing above waits until it is loaded.
    expected = error = None
    waiting = st.bottom.empty()
    loaded = not form.disabled and setup_estimate.wait_for_engine(waiting)
    with trust:
        setup_probe.draw(form, loaded)
    if loaded:
        if setup_recipe.wants_preview(form):
            with preview, shell.guarded():
                setup_recipe.draw_preview(form)
        if form.ready:
            expected, error = setup_estimate.of(form)
        with modes:
            if expected is not None:
                setup_mode.compare(form, expected)
                setup_estimate.draw_measure(form)
            elif error is not None:
                shell.show_error(error.what, error.remedy)
            else:
                st.info("The estimate appears once the settings are in range.", icon=":material/info:")
    with waiting.container():
        setup_estimate.draw_bar(form, expected, error)
