"""Set up a run: preset or own settings, targets chosen by looking, and what each replay mode will take."""

import json
from collections.abc import Sequence

import streamlit as st

from engine import config as configs
from engine.analysis import target_view
from engine.errors import DataError, ReplayError
from engine.jobs import estimate
from engine.targets import FUNCTIONS, Target, TestImage
from ui import formats, paging, pictures, shell
from ui.text import line, plain

A_PAGE = 24
OWN = "own"
MODES = {
    "memory": "Every state in RAM or GPU memory; further targets later need one more training.",
    "disk": "Every state on disk, streamed back; further targets later need no training.",
    "recompute": "Every c-th full state on disk, the rest trained again while replaying: little disk, one more "
    "training of time.",
}
RECOMMENDED = {
    "memory": "the disk is too short for every state, and memory is not",
    "disk": "further targets then need no training",
    "recompute": "it takes the least disk and memory, for one more training",
}
NOT_OF_SIZE = ("preset", "replay_mode", "clean_when_done")  # the estimate covers every mode


def field(name: str, config, found: dict) -> object:
    """One widget for one setting, its problem beside it."""
    value, label, key = configs.get(config, name), formats.LABELS[name], f"set-{name}"
    if name in configs.CHOICES:
        choice = configs.CHOICES[name]
        given = st.selectbox(label, choice.names, index=choice.names.index(value), key=key, help=choice.what)
    elif name in configs.FLAGS:
        given = st.checkbox(label, value, key=key, help=configs.FLAGS[name])
    else:
        allowed = configs.RANGES[name]
        if allowed.kind is int:
            given = st.number_input(label, value=int(value), step=1, key=key, help=allowed.what)
        else:
            given = st.number_input(label, value=float(value), format="%g", step=None, key=key, help=allowed.what)
    if name in found:
        st.error(f"{label} {plain(found[name])}.")
    return given


def own_settings(start) -> dict:
    names = [
        "dataset",
        "model",
        "width",
        "recipe.epochs",
        "recipe.batch_size",
        "recipe.peak_lr",
        "recipe.schedule",
        "recipe.warmup",
        "recipe.momentum",
        "recipe.nesterov",
        "recipe.weight_decay",
        "recipe.decay_norm_bias",
        "recipe.seed",
        "targets_per_pass",
        "device",
        "precision",
    ]
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
    return dataset.sizes


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


def offered_images(dataset) -> tuple[Sequence[int], str]:
    """Test indices to choose from, filtered by class or to the mistakes of a finished run."""
    what, which = st.columns(2)
    source = what.selectbox("Show", ["All test images", "Misclassified by an earlier run"])
    if source == "All test images":
        classes = ["All classes", *dataset.classes]
        label = which.selectbox("Class", classes)
        if label == classes[0]:
            return range(len(dataset.test_labels)), label
        return paging.of_class(dataset.test_labels, dataset.classes.index(label)).tolist(), label
    trained = []
    for run in shell.runs():
        try:
            record = run.manifest()
            if record.trained and record.config.dataset == dataset.name:
                trained.append(run)
        except ReplayError:
            continue  # a damaged run offers nothing; Runs and storage says what is wrong with it
    if not trained:
        which.info("No run of this data set has been trained yet.")
        return (), source
    names = {run.id: run for run in trained}
    chosen = which.selectbox("Run", list(names))
    return target_view.misclassified(names[chosen], dataset).tolist(), chosen


def choose_targets(dataset) -> None:
    chosen = st.session_state["chosen_targets"]
    st.caption("Tick the test images to explain. Sets are averaged over: a class, or all test images.")
    indices, shown = offered_images(dataset)
    pages = range(0, len(indices), A_PAGE)
    start = (
        st.select_slider("Images", pages, format_func=lambda s: f"from {s}", key=f"page-{shown}") if pages[1:] else 0
    )
    columns = st.columns(8)
    for i, index in enumerate(indices[start:][:A_PAGE]):
        with columns[i % len(columns)]:
            name = f"test:{index}"
            st.html(pictures.picture(dataset.name, "test", index))
            st.session_state[f"tick-{name}"] = name in chosen  # the choice decides, not the widget's memory
            st.checkbox(
                f"{index} {plain(dataset.classes[dataset.test_labels[index]])}",
                key=f"tick-{name}",
                on_change=toggle,
                args=(name,),
            )
    sets = {f"class:{c}": line(f"All test images of {name}") for c, name in enumerate(dataset.classes)}
    sets["test:all"] = "All test images"
    st.session_state["sets"] = [t for t in chosen if t in sets]
    st.multiselect("Sets", list(sets), key="sets", format_func=sets.get, on_change=take_sets, args=(sets,))


def choose_mode(config):
    """The configuration with the replay mode chosen, and with what else that mode asks for."""
    mode = st.radio(
        "Where the training steps are kept",
        list(MODES),
        captions=list(MODES.values()),
        index=list(MODES).index(config.replay_mode),
        format_func=str.capitalize,
    )
    config = config.replace(replay_mode=mode)
    limits = ["segment", "checkpoint_mb"] if mode == "recompute" else []
    typed = {n: st.session_state[f"set-{n}"] for n in limits if f"set-{n}" in st.session_state}
    found = configs.problems(config.replace(**typed))
    changes = {}
    for column, name in zip(st.columns(2), limits):
        with column:
            changes[name] = field(name, config, found)
    if mode != "memory":
        changes["clean_when_done"] = field("clean_when_done", config, found)
    return config.replace(**changes)


def measured(config):
    """The measured estimate of these settings, kept until they change; None where there is none."""
    key = json.dumps({k: v for k, v in config.to_dict().items() if k not in NOT_OF_SIZE}, sort_keys=True)
    kept_key, told, busy = st.session_state.get("measured", (None, None, False))
    told, busy = (told, busy) if kept_key == key else (None, False)
    in_progress = bool(shell.manager().active())
    label = "Measure again" if told else "Measure on this machine"
    with shell.guarded():
        if st.button(f"{label} (some seconds)", icon=":material/timer:", key="measure", **shell.acting()):
            with st.spinner("Measuring: a few steps of this model, data and targets, forwards and backwards …"):
                told, busy = estimate.estimate(config, shell.root(), measure=True), in_progress
            st.session_state["measured"] = key, told, busy
            st.rerun()  # for the button's own words
    if told is None:
        st.caption(
            "Sizes follow from the model and the settings. Time, and memory at the peak, are measured: a few "
            "steps of the very model, data and targets, and a few writes to the outputs folder."
        )
    if busy:
        st.warning(
            "This was measured while a run was in progress, so its times are too long.", icon=":material/warning:"
        )
    elif told is None and in_progress:
        st.warning(
            "A run is in progress: times measured now will be too long, because the machine is busy.",
            icon=":material/warning:",
        )
    return told


def show_estimate(config) -> bool:
    """What the run will take in each mode, which one is best here, and whether the chosen one fits."""
    place = st.container()
    told = measured(config) or estimate.estimate(config, shell.root())
    timed = told.train_seconds is not None
    with place:
        shell.metrics(
            {
                "Steps": f"{told.steps:,}",
                "Each step keeps": formats.size(told.bytes_per_step),
                **({"Segment": formats.count(told.segment, "steps")} if config.replay_mode == "recompute" else {}),
                "Disk free": formats.size(told.disk_free),
                "RAM available": formats.size(told.ram_free),
                **({"GPU memory free": formats.size(told.gpu_free)} if told.gpu_free else {}),
                **({"Training": formats.duration(told.train_seconds)} if timed else {}),
            }
        )
        rows = []
        for name, mode in told.modes.items():
            # Without its checkpoints a run leaves what memory mode does.
            stays = told.modes["memory"] if config.clean_when_done else mode
            rows.append(
                {
                    "Replay mode": name,
                    "Disk that stays": formats.size(stays.disk),
                    "Disk at the peak": formats.size(mode.disk_peak),
                    "RAM at the peak" if timed else "RAM at the peak, beside the engine's own": formats.size(mode.ram),
                    **({"GPU memory at the peak": formats.size(mode.gpu)} if told.gpu_free else {}),
                    "Time": formats.duration_beside(mode.seconds, told.train_seconds) if timed else "not measured",
                    "Fits": plain(mode.problem or "yes"),
                }
            )
        st.table(rows)
        time_is = "Time is that of training and replay." if timed else ""
        st.caption(
            f"On {plain(told.device_name)}. A step keeps {told.parameters:,} parameters and {told.buffers:,} buffers, "
            f"and nothing else. {time_is}"
        )
        if told.recommended:
            st.markdown(f"Recommended here: **{told.recommended}** mode; {RECOMMENDED[told.recommended]}.")
        problem = told.modes[config.replay_mode].problem
        if problem:
            remedy = (
                f"Choose {told.recommended} mode."
                if told.recommended
                else "Free some space, train fewer steps, or use a narrower model."
            )
            st.warning(
                f"{config.replay_mode.capitalize()} mode does not fit: {plain(problem)}. {remedy}",
                icon=":material/warning:",
            )
    return not problem


with shell.page("Set up a run"):
    names = [*configs.PRESETS, OWN]
    preset = st.segmented_control(
        "Start from",
        names,
        default="sample",
        required=True,
        format_func=lambda n: "Own settings" if n == OWN else n.capitalize(),
    )
    config = configs.preset("sample" if preset == OWN else preset)
    if preset == OWN:
        config = config.replace(preset=OWN)
        config = config.replace(**own_settings(config))
    else:
        st.caption(configs.PRESET_TEXT[preset])

    st.subheader("Targets")
    function = st.radio(
        "Target function",
        list(FUNCTIONS),
        captions=[function.sentence for function in FUNCTIONS.values()],
        horizontal=True,
        format_func=str.capitalize,
    )
    offer(config)
    dataset = None
    with shell.guarded():
        dataset = pictures.dataset(config.dataset)
        with st.expander("Choose test images and sets", icon=":material/grid_view:"):
            choose_targets(dataset)
    targets = tuple(st.session_state["chosen_targets"])
    if dataset is not None and targets:
        ticked = [t.index for t in map(Target.parse, targets) if isinstance(t, TestImage)]
        pictures.plain_tiles(dataset.name, "test", ticked[:32])
    st.caption(f"{formats.count(len(targets), 'targets')} chosen: {plain(', '.join(targets)) or 'none yet'}")

    st.subheader("Replay mode")
    config = choose_mode(config.replace(targets=targets, target_function=function))
    found = configs.problems(config, *sizes(config.dataset))

    st.subheader("Disk, memory and time")
    fits = False
    if [name for name in found if name != "targets"]:
        st.info("The estimate appears once the settings are in range.", icon=":material/info:")
    elif dataset is not None:
        with shell.guarded():
            fits = show_estimate(config)
    for name, problem in found.items():
        st.error(f"{formats.LABELS[name]}: {plain(problem)}.", icon=":material/error:")
    if st.button(
        "Start the run",
        type="primary",
        icon=":material/play_arrow:",
        **shell.acting(disabled=bool(found) or dataset is None or not fits),
    ):
        st.switch_page("pages/Live.py", query_params={"run": shell.manager().start(config)})
