"""Step 2 of the form: the network that learns."""

import streamlit as st

from engine import model_names
from engine.jobs import preview
from ui import formats, setup_draft, setup_fields, shell
from ui.setup_draft import Form
from ui.text import line

PLAIN = ("model",)
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
NONE = "none: drawn by the seed"


def draw(form: Form) -> None:
    setup_fields.fields(form, PLAIN, across=2)
    st.caption(
        "Networks that ship with the app, and those in the files of its folder of models, which whoever runs the app "
        "fills. Smaller ones train sooner, and their scores are easier to rely on."
    )
    rest = [name for name in setup_fields.names_of("model") if name not in PLAIN]
    changed = [name for name in rest if name in form.draft.changed]
    wrong = [name for name in rest if name in form.problems]
    with st.expander("Advanced", expanded=bool(wrong or changed)):
        choose_weights(form)
        setup_fields.fields(form, [name for name in rest if name != "initial_weights"])
        draw_names(form)


def draw_names(form: Form) -> None:
    """What patterns can name, looked up where somebody asks: it builds the model."""
    if form.disabled or form.dataset is None or form.problems.keys() & {"model", *setup_fields.names_of("model")}:
        return
    with st.popover("Names of the parameters", key="parameter-names", on_change="rerun") as names:
        if names.open:
            with shell.guarded():
                # Without what is frozen: its patterns are perhaps what is being looked for.
                found = preview.parameter_names(form.config.replace(frozen=""), form.dataset)
                st.caption(f"{formats.count(len(found), 'tensors')}; a pattern such as conv* or *.bias names several.")
                st.code("\n".join(map(line, found)), language=None)


def weight_files() -> list[str]:
    """Files of weights in the folder of models: the only ones that a browser may name."""
    try:
        return sorted(path.name for path in model_names.folder().iterdir() if path.suffix in WEIGHTS)
    except OSError:
        return []


def choose_weights(form: Form) -> None:
    value = form.config.initial_weights
    files = list(dict.fromkeys(["", *weight_files(), value]))
    st.selectbox(
        setup_draft.label("initial_weights"),
        files,
        files.index(setup_fields.begin(setup_fields.key_of("initial_weights"), value, "")),
        format_func=lambda name: line(name) or NONE,
        key=setup_fields.key_of("initial_weights"),
        help="To go on from what another training learned. Files of the folder of models.",
        on_change=setup_fields.take,
        args=("initial_weights",),
        disabled=form.disabled,
    )
    setup_fields.remarks(form, "initial_weights")
