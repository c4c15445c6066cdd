"""Set up a run: preset or own settings, targets chosen by looking, what it will take on disk."""

import numpy as np
import streamlit as st

from engine import config as configs
from engine import estimate, influence
from engine.errors import DataError, ReplayError
from ui import formats, pictures, shell

A_PAGE = 24
OWN = "own"
MODES = {
    "memory": "Keeps every step in RAM or GPU memory: fastest, nothing to clean, no further targets later.",
    "disk": "Keeps every step in outputs/: little RAM, and further targets can be explained later.",
}
FUNCTIONS = {
    "loss": "Cross-entropy loss of the target, in nats.",
    "margin": "Logit of the true label minus the log-sum-exp of the others, in logits.",
}


def field(name: str, config, found: dict) -> object:
    """One widget for one setting, its problem beside it."""
    value, label, key = configs.get(config, name), formats.LABELS[name], f"set-{name}"
    if name in configs.CHOICES:
        choices = configs.CHOICES[name]
        given = st.selectbox(label, choices, index=choices.index(value), key=key)
    elif name in configs.FLAGS:
        given = st.checkbox(label, value, key=key)
    else:
        allowed = configs.RANGES[name]
        if allowed.kind is int:
            given = st.number_input(label, value=int(value), step=1, key=key, help=allowed.what)
        else:
            given = st.number_input(label, value=float(value), format="%g", step=None, key=key, help=allowed.what)
    if name in found:
        st.error(f"{label} {found[name]}.")
    return given


def own_settings(start) -> dict:
    names = ["dataset", "model", "width", "recipe.epochs", "recipe.batch_size", "recipe.peak_lr",
             "recipe.schedule", "recipe.warmup", "recipe.momentum", "recipe.nesterov", "recipe.weight_decay",
             "recipe.decay_norm_bias", "recipe.seed", "targets_per_pass", "device", "precision"]
    # The values of the last drawing, so that each problem stands beside its field at once.
    typed = {n: st.session_state[f"set-{n}"] for n in names if f"set-{n}" in st.session_state}
    found = configs.problems(start.replace(**typed), *sizes(typed.get("dataset", start.dataset)))
    columns, changes = st.columns(4), {}
    for i, name in enumerate(names):
        with columns[i % len(columns)]:
            changes[name] = field(name, start, found)
    return changes


def sizes(dataset_name: str) -> tuple:
    try:
        dataset = pictures.dataset(dataset_name)
    except DataError:
        return (None, None, None)
    return len(dataset.train_labels), len(dataset.test_labels), len(dataset.classes)


def toggle(name: str) -> None:
    chosen = st.session_state["chosen_targets"]
    chosen.remove(name) if name in chosen else chosen.append(name)


def take_sets(sets: dict) -> None:
    images = [t for t in st.session_state["chosen_targets"] if t not in sets]
    st.session_state["chosen_targets"] = [*images, *st.session_state["sets"]]


def offer(config) -> None:
    """A preset's own targets, until the person chooses others; those stay while the data set does."""
    was = st.session_state.get("offered")
    chosen = st.session_state.get("chosen_targets")
    if was is None or was[0] != config.dataset or chosen == was[1]:
        st.session_state["chosen_targets"] = list(config.targets)
    st.session_state["offered"] = (config.dataset, list(config.targets))


def offered_images(dataset) -> tuple[np.ndarray, str]:
    """Test indices to choose from, filtered by class or to the mistakes of a finished run."""
    what, which = st.columns(2)
    source = what.selectbox("Show", ["All test images", "Misclassified by an earlier run"])
    if source == "All test images":
        classes = ["All classes", *dataset.classes]
        label = which.selectbox("Class", classes)
        if label == classes[0]:
            return np.arange(len(dataset.test_labels)), label
        return np.flatnonzero(dataset.test_labels == dataset.classes.index(label)), label
    trained = []
    for run in shell.runs():
        try:
            if run.manifest.get("trained") and run.config.dataset == dataset.name:
                trained.append(run)
        except ReplayError:
            continue        # a damaged run offers nothing; Runs and storage says what is wrong with it
    if not trained:
        which.info("No run of this data set has been trained yet.")
        return np.arange(0), source
    names = {run.id: run for run in trained}
    chosen = which.selectbox("Run", list(names))
    return influence.misclassified(names[chosen], dataset), chosen


def choose_targets(dataset) -> None:
    chosen = st.session_state["chosen_targets"]
    st.caption("Tick the test images to explain. Sets are averaged over: a class, or all test images.")
    indices, shown = offered_images(dataset)
    pages = range(0, len(indices), A_PAGE)
    start = st.select_slider("Images", pages, format_func=lambda s: f"from {s}", key=f"page-{shown}") if pages[1:] else 0
    columns = st.columns(8)
    for i, index in enumerate(indices[start:][:A_PAGE].tolist()):
        with columns[i % len(columns)]:
            name = f"test:{index}"
            st.html(pictures.picture(dataset.name, "test", index, 84))
            st.session_state[f"tick-{name}"] = name in chosen     # the choice decides, not the widget's memory
            st.checkbox(f"{index} {dataset.classes[dataset.test_labels[index]]}", key=f"tick-{name}",
                        on_change=toggle, args=(name,))
    sets = {f"class:{c}": f"All test images of {name}" for c, name in enumerate(dataset.classes)}
    sets["test:all"] = "All test images"
    st.session_state["sets"] = [t for t in chosen if t in sets]
    st.multiselect("Sets", list(sets), key="sets", format_func=sets.get, on_change=take_sets, args=(sets,))


def show_estimate(config) -> bool:
    """What the run will take, and whether it fits."""
    told = estimate.estimate(config, shell.root())
    shell.metrics({"Steps": f"{told.steps:,}", "Each step keeps": formats.size(told.bytes_per_step),
                   "All steps": formats.size(told.trajectory), "Disk free": formats.size(told.disk_free)})
    st.caption(f"A step keeps {told.parameters:,} parameters and {told.buffers:,} buffers, and nothing else.")
    rows = [{"Replay mode": mode, "Disk needed": formats.size(told.disk[mode]),
             "Memory needed beside the engine, about": formats.size(told.memory[mode]),
             f"Memory free ({told.device})": formats.size(told.memory_free),
             "Fits": "yes" if told.fits[mode] else "no"} for mode in told.fits]
    st.table(rows)
    if not told.fits[config.replay_mode]:
        others = [mode for mode, fits in told.fits.items() if fits]
        remedy = (f"Choose {others[0]} mode." if others
                  else "Free some space, train fewer steps, or use a narrower model.")
        st.warning(f"{config.replay_mode.capitalize()} mode does not fit. {remedy}", icon=":material/warning:")
    return told.fits[config.replay_mode]


with shell.page("Set up a run"):
    names = [*configs.PRESETS, OWN]
    preset = st.segmented_control("Start from", names, default="sample", required=True,
                                  format_func=lambda n: "Own settings" if n == OWN else n.capitalize())
    config = configs.preset("sample" if preset == OWN else preset)
    if preset == OWN:
        config = config.replace(preset=OWN)
        config = config.replace(**own_settings(config))
    else:
        st.caption(configs.PRESET_TEXT[preset])

    st.subheader("Targets")
    function = st.radio("Target function", list(FUNCTIONS), captions=list(FUNCTIONS.values()), horizontal=True,
                        format_func=str.capitalize)
    offer(config)
    dataset = None
    with shell.guarded():
        dataset = pictures.dataset(config.dataset)
        with st.expander("Choose test images and sets", icon=":material/grid_view:"):
            choose_targets(dataset)
    targets = tuple(st.session_state["chosen_targets"])
    if dataset is not None and targets:
        ticked = [int(t.partition(":")[2]) for t in targets if t.startswith("test:") and t != "test:all"]
        pictures.plain_tiles(dataset.name, "test", ticked[:32])
    st.caption(f"{formats.count(len(targets), 'targets')} chosen: {', '.join(targets) or 'none yet'}")

    st.subheader("Replay mode")
    mode = st.radio("Where the training steps are kept", list(MODES), captions=list(MODES.values()),
                    index=list(MODES).index(config.replay_mode), format_func=str.capitalize, horizontal=True)
    config = config.replace(targets=targets, target_function=function, replay_mode=mode)
    found = configs.problems(config, *sizes(config.dataset))

    st.subheader("Disk and memory")
    fits = False
    if [name for name in found if name != "targets"]:
        st.info("The estimate appears once the settings are in range.", icon=":material/info:")
    elif dataset is not None:
        with shell.guarded():
            fits = show_estimate(config)
    for name, problem in found.items():
        st.error(f"{formats.LABELS[name]}: {problem}.", icon=":material/error:")
    if st.button("Start the run", type="primary", icon=":material/play_arrow:",
                 disabled=bool(found) or dataset is None or not fits):
        st.switch_page("pages/Live.py", query_params={"run": shell.manager().submit(config)})
