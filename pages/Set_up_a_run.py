"""Set up a run: preset, own settings or a file; targets chosen by looking; what each replay mode will take."""

import json
from collections.abc import Iterable, Sequence

import streamlit as st

from engine import config as configs
from engine import config_file
from engine.analysis import target_view
from engine.config import RunConfig
from engine.datasets import store
from engine.datasets.base import Dataset, Sizes
from engine.errors import ConfigError, DataError
from engine.jobs import estimate
from engine.runs.run import Run
from engine.targets import Confusion, Target, TestImage, TrainImage, read_targets, split_targets
from ui import formats, link, paging, pictures, shell, targets_form
from ui.paging import EVERY
from ui.text import line, plain

OWN, FILE = "own", "file"
OWN_SETTINGS = (
    "dataset",
    "model",
    "width",
    "recipe.epochs",
    "recipe.batch_size",
    "recipe.peak_lr",
    "recipe.schedule",
    "recipe.warmup",
    "recipe.optimizer",
    "recipe.momentum",
    "recipe.nesterov",
    "recipe.beta1",
    "recipe.beta2",
    "recipe.eps",
    "recipe.eps_root",
    "recipe.weight_decay",
    "recipe.decay_norm_bias",
    "recipe.clip_norm",
    "recipe.augment",
    "recipe.label_smoothing",
    "recipe.class_weights",
    "recipe.groups",
    "recipe.warmup_steps",
    "recipe.anneal",
    "recipe.div_factor",
    "recipe.final_div_factor",
    "recipe.milestones",
    "recipe.gamma",
    "recipe.power",
    "recipe.seed",
    "targets_per_pass",
    "device",
    "precision",
)
ALL_IMAGES, WRONG_IMAGES = "All test images", "Misclassified by an earlier run"
SMALL_TILES = 32  # of the images chosen
AUGMENTED = 6  # training images in the preview of what the model sees
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


# -- preset, own settings, or a file


def choose_settings() -> RunConfig:
    data = link.one_of("dataset", prepared(), None)
    preset = st.segmented_control(
        "Start from",
        [*configs.PRESETS, OWN, FILE],
        default="sample" if data is None else OWN,
        required=True,
        format_func=lambda name: {OWN: "Own settings", FILE: "TOML file"}.get(name, name.capitalize()),
    )
    if preset == FILE:
        start = uploaded_settings()
        return start.replace(**own_settings(start))
    fill_from("")
    if preset == OWN:
        start = configs.preset("sample").replace(preset=OWN)
        start = start if data is None else start.replace(dataset=data)
        return start.replace(**own_settings(start))
    st.caption(configs.PRESET_TEXT[preset])
    return configs.preset(preset)


def uploaded_settings() -> RunConfig:
    """The settings of a file, which the form then starts from; the page waits until there is one that can be used."""
    file = st.file_uploader(
        "TOML file",
        type="toml",
        max_upload_size=1,
        help="As Download as TOML, below, and python -m engine config write it.",
    )
    if file is None:
        st.caption("The form starts from the settings of the file. Nothing is started by it.")
        st.stop()
    try:
        config = offered(config_file.loads(file.getvalue(), file.name))
    except (ConfigError, DataError) as error:
        shell.show_error(error.what, error.remedy)
        st.stop()
    fill_from(file.file_id)
    return config


def offered(config: RunConfig) -> RunConfig:
    """The same configuration, or a `ConfigError` where a file from a browser names what the form does not offer: a
    data set that nobody brought on the page Data is a path on this machine, and a model beyond the list is code."""
    if config.dataset not in (*configs.CHOICES["dataset"], *prepared()):
        raise ConfigError(
            f"The file names a data set that this app does not offer: «{config.dataset}».",
            "Add it on the page Data first.",
        )
    configs.check_offered(config)
    config = configs.read_questions(config, pictures.dataset(config.dataset))
    at_fault = configs.problems(config, *sizes(config.dataset))
    for problem in (at_fault[name] for name in ("targets", "target_function") if name in at_fault):
        raise ConfigError(f"The targets of the file cannot be used: {problem}.", "Correct the file.")
    return config


def fill_from(source: str) -> None:
    """Where the form's settings come from: another file has widgets of its own, and brings its targets."""
    if st.session_state.get("form_source", "") != source:
        st.session_state["form_source"] = source
        st.session_state.pop("offered", None)


def key_of(name: str) -> str:
    """The key of a setting's widget."""
    source = st.session_state.get("form_source", "")
    return f"set-{name}-{source}" if source else f"set-{name}"


def prepared() -> tuple[str, ...]:
    """Data sets that people brought, on the page Data."""
    return tuple(one.name for one in store.prepared_sets())


def problems_of(config: RunConfig) -> dict[str, str]:
    """Also of what the form does not offer: a browser can send any text, and the estimate builds the model."""
    return {**configs.problems(config, *sizes(str(config.dataset))), **configs.offered_problems(config)}


def own_settings(start: RunConfig) -> dict[str, object]:
    changes = last_values(OWN_SETTINGS)
    problems = problems_of(start.replace(**changes))
    columns, values = st.columns(4), {}
    for i, name in enumerate(OWN_SETTINGS):
        with columns[i % len(columns)]:
            values[name] = field(name, start, problems)
    return values


def last_values(names: Iterable[str]) -> dict[str, object]:
    """What the widgets said when the page was drawn last, so that each problem stands beside its field at once."""
    values = {name: st.session_state[key_of(name)] for name in names if key_of(name) in st.session_state}
    return {name: configs.LISTS[name].read(v) if name in configs.LISTS else v for name, v in values.items()}


def field(name: str, config: RunConfig, problems: dict[str, str]) -> object:
    """One widget for one setting, its problem beside it."""
    value, label, key = configs.get(config, name), formats.LABELS.get(name, name), key_of(name)
    if name in configs.CHOICES:
        choices = [*configs.CHOICES[name], *(prepared() if name == "dataset" else ())]
        setting = st.selectbox(label, choices, index=choices.index(value), key=key, format_func=line)
    elif name in configs.FLAGS:
        setting = st.checkbox(label, value, key=key)
    elif name in configs.LISTS:
        notation = configs.LISTS[name]
        what = f"{notation.what} Written {notation.form}"
        setting = notation.read(st.text_input(label, notation.write(value), key=key, max_chars=2000, help=what))
    elif configs.RANGES[name].kind is int:
        setting = st.number_input(label, value=int(value), step=1, key=key, help=configs.RANGES[name].what)
    else:
        what = configs.RANGES[name].what
        setting = st.number_input(label, value=float(value), format="%g", step=None, key=key, help=what)
    if name in problems:
        st.error(f"{label} {plain(problems[name])}.")
    return setting


def sizes(dataset_name: str) -> Sizes | tuple[()]:
    """What a configuration is checked against; nothing where the data set cannot be had."""
    try:
        return pictures.dataset(dataset_name).sizes
    except DataError:
        return ()


def draw_augmented(dataset: Dataset, config: RunConfig) -> None:
    """Some training images beside what the first epochs make of them, where the settings that decide it are sound."""
    problems = configs.problems(config, *dataset.sizes)
    if not config.recipe.augment or problems.keys() & {"recipe.augment", "recipe.seed", "recipe.epochs"}:
        return
    with st.expander("What the model sees of some training images", icon=":material/auto_awesome_motion:"):
        pictures.augmented(dataset, config.recipe, range(min(AUGMENTED, dataset.sizes.n_train)))
        st.caption(
            "The image itself, and what each of the first epochs makes of it: the same in training, replay and "
            "retraining. Test images are never augmented."
        )


# -- targets


def offer(config: RunConfig) -> None:
    """A preset's own targets, until the person chooses others; those stay while the data set does."""
    before = st.session_state.get("offered")
    chosen = st.session_state.get("chosen_targets")
    if before is None or before[0] != config.dataset or chosen == before[1]:
        st.session_state["chosen_targets"] = list(config.targets)
    st.session_state["offered"] = (config.dataset, list(config.targets))


def choose_targets(dataset: Dataset) -> None:
    st.caption("Tick the test images to explain. Sets are averaged over: a class, or all test images.")
    indices, source = offered_images(dataset)
    starts = paging.starts(len(indices))
    start = starts[0]
    if starts[1:]:
        start = st.select_slider(
            "Images", starts, format_func=lambda position: f"from {position}", key=f"page-{source}"
        )
    draw_images(dataset, indices[start:][: paging.A_PAGE])
    choose_sets(dataset)
    type_targets(dataset)


def offered_images(dataset: Dataset) -> tuple[Sequence[int], str]:
    """Test indices to choose from, filtered by class or to the mistakes of a finished run, and a name of the filter."""
    what, which = st.columns(2)
    source = what.selectbox("Show", [ALL_IMAGES, WRONG_IMAGES])
    if source == ALL_IMAGES:
        label = which.selectbox("Class", [EVERY, *dataset.classes], format_func=line)
        number = paging.label_number(label, dataset.classes)
        return paging.of_class(dataset.test_labels, number).tolist(), label
    runs = [run.id for run in shell.all_runs() if run.trained and run.dataset == dataset.name]
    if not runs:
        which.info("No run of this data set has been trained yet.")
        return (), source
    run_id = which.selectbox("Run", runs)
    manifest = Run.open(shell.root(), run_id).manifest()
    return target_view.misclassified(manifest, dataset).tolist(), run_id


def draw_images(dataset: Dataset, indices: Sequence[int]) -> None:
    chosen, columns = st.session_state["chosen_targets"], st.columns(8)
    for i, index in enumerate(indices):
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


def toggle(name: str) -> None:
    chosen = st.session_state["chosen_targets"]
    if name in chosen:
        chosen.remove(name)
    else:
        chosen.append(name)


def choose_sets(dataset: Dataset) -> None:
    titles = {f"class:{c}": line(f"All test images of {name}") for c, name in enumerate(dataset.classes)}
    titles["test:all"] = ALL_IMAGES
    st.session_state["sets"] = [name for name in st.session_state["chosen_targets"] if name in titles]
    st.multiselect("Sets", list(titles), key="sets", format_func=titles.get, on_change=take_sets, args=(titles,))


def take_sets(titles: dict[str, str]) -> None:
    images = [name for name in st.session_state["chosen_targets"] if name not in titles]
    st.session_state["chosen_targets"] = [*images, *st.session_state["sets"]]


def type_targets(dataset: Dataset) -> None:
    """Targets by their texts: what a row of pictures cannot offer."""
    st.text_input(
        "More targets",
        key="typed_targets",
        placeholder="test:0-9, train:17, confusion:coat>shirt",
        help=targets_form.HELP,
        on_change=take_typed,
        args=(dataset,),
    )
    if problem := st.session_state.pop("typed_problem", ""):
        st.error(plain(problem), icon=":material/error:")


def take_typed(dataset: Dataset) -> None:
    chosen = st.session_state["chosen_targets"]
    try:
        typed = map(str, read_targets(split_targets(st.session_state["typed_targets"]), dataset))
        chosen += [text for text in dict.fromkeys(typed) if text not in chosen]
        st.session_state["typed_targets"] = ""
    except ConfigError as error:
        st.session_state["typed_problem"] = str(error)


def draw_chosen(dataset: Dataset | None, targets: tuple[str, ...]) -> None:
    if dataset is not None and targets:
        parsed = list(map(Target.parse, targets))
        for split, kind in (("test", TestImage), ("train", TrainImage)):
            images = [target.index for target in parsed if isinstance(target, kind)]
            if images:
                pictures.plain_tiles(dataset.name, split, images[:SMALL_TILES])
    st.caption(f"{formats.count(len(targets), 'targets')} chosen: {plain(', '.join(targets)) or 'none yet'}")
    draw_typed(targets)


def draw_typed(targets: tuple[str, ...]) -> None:
    """Targets that have no box to tick, with a button each that takes it away."""
    typed = [text for text in targets if isinstance(Target.parse(text), TrainImage | Confusion)]
    if typed:
        with st.container(horizontal=True):
            for text in typed:
                st.button(plain(text), key=f"drop-{text}", icon=":material/close:", on_click=toggle, args=(text,))


# -- replay mode


def choose_mode(config: RunConfig) -> RunConfig:
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
    problems = configs.problems(config.replace(**last_values(limits)))
    changes = {}
    for column, name in zip(st.columns(2), limits, strict=False):
        with column:
            changes[name] = field(name, config, problems)
    if mode != "memory":
        changes["clean_when_done"] = field("clean_when_done", config, problems)
    return config.replace(**changes)


# -- disk, memory and time


def draw_estimate(config: RunConfig) -> bool:
    """What the run will take in each mode, which one is best here, and whether the chosen one fits."""
    place = st.container()
    expected = measured(config) or estimate.estimate(config, shell.root())
    with place:
        draw_sizes(config, expected)
        draw_modes(config, expected)
        if expected.recommended:
            st.markdown(f"Recommended here: **{expected.recommended}** mode; {RECOMMENDED[expected.recommended]}.")
        problem = expected.modes[config.replay_mode].problem
        if problem:
            warn_of_misfit(config, problem, expected.recommended)
    return not problem


def measured(config: RunConfig) -> estimate.Estimate | None:
    """The measured estimate of these settings, kept until they change; None where there is none."""
    key = json.dumps({k: v for k, v in config.to_dict().items() if k not in NOT_OF_SIZE}, sort_keys=True)
    known_key, expected, busy = st.session_state.get("measured", (None, None, False))
    if known_key != key:
        expected, busy = None, False
    in_progress = bool(shell.queue().active())
    label = "Measure again" if expected else "Measure on this machine"
    with shell.guarded():
        if st.button(f"{label} (some seconds)", icon=":material/timer:", key="measure", **shell.acting()):
            with st.spinner("Measuring: a few steps of this model, data and targets, forwards and backwards …"):
                expected, busy = estimate.estimate(config, shell.root(), measure=True), in_progress
            st.session_state["measured"] = key, expected, busy
            st.rerun()  # for the button's own words
    if expected is None:
        st.caption(
            "Sizes follow from the model and the settings. Time, and memory at the peak, are measured: a few "
            "steps of the very model, data and targets, and a few writes to the outputs folder."
        )
    warn_of_busy_machine(expected is not None, busy, in_progress)
    return expected


def warn_of_busy_machine(is_measured: bool, was_busy: bool, in_progress: bool) -> None:
    if was_busy:
        st.warning(
            "This was measured while a run was in progress, so its times are too long.", icon=":material/warning:"
        )
    elif in_progress and not is_measured:
        st.warning(
            "A run is in progress: times measured now will be too long, because the machine is busy.",
            icon=":material/warning:",
        )


def draw_sizes(config: RunConfig, expected: estimate.Estimate) -> None:
    shell.metrics(
        {
            "Steps": f"{expected.steps:,}",
            "Each step keeps": formats.size(expected.bytes_per_step),
            **({"Segment": formats.count(expected.segment, "steps")} if config.replay_mode == "recompute" else {}),
            "Disk free": formats.size(expected.disk_free),
            "RAM available": formats.size(expected.ram_free),
            **({"GPU memory free": formats.size(expected.gpu_free)} if expected.gpu_free else {}),
            **({} if expected.train_seconds is None else {"Training": formats.duration(expected.train_seconds)}),
        }
    )


def draw_modes(config: RunConfig, expected: estimate.Estimate) -> None:
    """A row a mode."""
    timed = expected.train_seconds is not None
    rows = []
    for name, mode in expected.modes.items():
        # Without its checkpoints a run leaves what memory mode does.
        stays = expected.modes["memory"] if config.clean_when_done else mode
        rows.append(
            {
                "Replay mode": name,
                "Disk that stays": formats.size(stays.disk),
                "Disk at the peak": formats.size(mode.disk_peak),
                "RAM at the peak" if timed else "RAM at the peak, beside the engine's own": formats.size(mode.ram),
                **({"GPU memory at the peak": formats.size(mode.gpu)} if expected.gpu_free else {}),
                "Time": formats.duration_beside(mode.seconds, expected.train_seconds) if timed else "not measured",
                "Fits": plain(mode.problem or "yes"),
            }
        )
    st.table(rows)
    moments = f", {expected.moments:,} moments of the optimizer" if expected.moments else ""
    st.caption(
        f"On {plain(expected.device_name)}. A step keeps {expected.parameters:,} parameters{moments} and "
        f"{expected.buffers:,} buffers, and nothing else. {'Time is that of training and replay.' if timed else ''}"
    )


def warn_of_misfit(config: RunConfig, problem: str, recommended: str | None) -> None:
    remedy = (
        f"Choose {recommended} mode." if recommended else "Free some space, train fewer steps, or use a narrower model."
    )
    st.warning(
        f"{config.replay_mode.capitalize()} mode does not fit: {plain(problem)}. {remedy}", icon=":material/warning:"
    )


def start(config: RunConfig) -> None:
    st.switch_page("pages/Live.py", query_params={"run": shell.queue().start(config)})


with shell.page("Set up a run"):
    config = choose_settings()

    st.subheader("Targets")
    offer(config)
    dataset, function = None, config.target_function
    with shell.guarded():
        dataset = pictures.dataset(config.dataset)
        draw_augmented(dataset, config)
        function = targets_form.choose_function(
            dataset.classes, key_of("new"), captions=True, start=config.target_function
        )
        with st.expander("Choose test images and sets", icon=":material/grid_view:"):
            choose_targets(dataset)
    targets = tuple(st.session_state["chosen_targets"])
    draw_chosen(dataset, targets)

    st.subheader("Replay mode")
    config = choose_mode(config.replace(targets=targets, target_function=function))
    problems = problems_of(config)

    st.subheader("Disk, memory and time")
    fits = False
    if problems.keys() - {"targets"}:
        st.info("The estimate appears once the settings are in range.", icon=":material/info:")
    elif dataset is not None:
        with shell.guarded():
            fits = draw_estimate(config)
    for name, problem in problems.items():
        st.error(f"{formats.LABELS.get(name, name)}: {plain(problem)}.", icon=":material/error:")
    ready = not problems and dataset is not None and fits
    st.download_button(
        "Download as TOML",
        "" if problems else config_file.dumps(config),
        f"{config.preset}.toml",
        "application/toml",
        disabled=bool(problems),
        help="Every setting above: for python -m engine run --config FILE, or to start from here another time.",
        icon=":material/download:",
    )
    if st.button("Start the run", type="primary", icon=":material/play_arrow:", **shell.acting(disabled=not ready)):
        start(config)
