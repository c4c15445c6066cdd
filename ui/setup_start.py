"""Where the form's settings come from: a proposal for the data, a preset, or a TOML file; and what a person changed."""

from dataclasses import replace

import streamlit as st

from engine import config as configs
from engine import config_file, files, proposal
from engine.config import RunConfig
from engine.datasets import corrected, store
from engine.errors import ConfigError, DataError
from engine.runs.run import Run
from ui import link, pictures, setup_draft, shell
from ui.setup_draft import FILE, PROPOSAL, Draft, label, written
from ui.text import plain

FIRST = "sample"  # the preset that the form opens with
SOURCES = {PROPOSAL: "Proposal for the data", FILE: "TOML file"}


def prepared() -> tuple[str, ...]:
    """Data sets that people brought, on the page Data, and those that they corrected."""
    return tuple(one.name for one in (*store.prepared_sets(), *corrected.all_there()))


def offered_data() -> tuple[str, ...]:
    return (*configs.CHOICES["dataset"], *prepared())


# -- drafts


def preset_draft(name: str) -> Draft:
    return Draft(name, f"the preset «{name}»", configs.preset(name), (configs.PRESET_TEXT[name] + ".",))


def proposed_draft(data: str) -> Draft:
    """What is proposed for a data set; the first preset's settings where it cannot be had, which the form says."""
    try:
        made = proposal.for_dataset(pictures.dataset(data))
    except (ConfigError, DataError):
        return Draft(PROPOSAL, "the first preset", configs.preset(FIRST).replace(preset="own", dataset=data))
    return Draft(PROPOSAL, f"the proposal for «{data}»", made.config, made.reasons)


def choose_data(data: str) -> None:
    """Another data set is another proposal, and what a person changed stays: in the form, or by a file."""
    before = setup_draft.now()
    draft, own = proposed_draft(data), before.changes
    if before.source == FILE:
        names = [name for _, _, name in config_file.settings() if name not in ("dataset", "preset", "targets")]
        own = {name: configs.get(before.base, name) for name in names} | dict(own)
    setup_draft.put(replace(draft, changes=own, targets_of=before.targets_of))


# -- on the page


def choose() -> Draft:
    """The draft that the form shows. Stops the page while a file is asked for and there is none that can be used."""
    follow_run()
    follow_link()
    draft = setup_draft.now()
    if st.session_state.get("start-of") != draft.source:  # the draft changed otherwise: by its data set
        st.session_state["start"] = st.session_state["start-of"] = draft.source
    link.needed("start", draft.source)
    source = st.segmented_control(
        "Start from",
        [PROPOSAL, *configs.PRESETS, FILE],
        required=True,
        format_func=lambda name: SOURCES[name] if name in SOURCES else str(name).capitalize(),
        key="start",
        on_change=take_start,
        disabled=files.read_only(),
    )
    if source == FILE:
        take_file()
    draft = setup_draft.now()
    st.session_state["start-of"] = draft.source
    st.query_params["dataset"] = st.session_state["data-asked"] = draft.base.dataset
    if draft.reasons:
        draw_reasons(draft)
    draw_changed(draft)
    return draft


def follow_link() -> None:
    """`?dataset=` chooses the data, as a click on the list does; once, for it stays in the address."""
    asked = link.one_of("dataset", offered_data(), None)
    if setup_draft.KEY not in st.session_state:
        setup_draft.put(preset_draft(FIRST) if asked is None else proposed_draft(asked))
    elif asked is not None and asked != st.session_state.get("data-asked"):
        choose_data(asked)


def follow_run() -> None:
    """`?like=RUN` fills the form in with that run's settings, `?window=` and `?rate=` with another window and another
    peak rate: once, and then they leave the address."""
    if "like" not in st.query_params:
        return
    run_id, window, rate = st.query_params["like"], link.real("window"), link.real("rate")
    with shell.guarded():
        config = offered(Run.open(shell.root(), run_id).manifest().config)
        wanted = {"window": window, "recipe.peak_lr": rate}
        config = config.replace(**{name: value for name, value in wanted.items() if value is not None})
        like = preset_draft(config.preset) if config.preset in configs.PRESETS else proposed_draft(config.dataset)
        settings = {name: configs.get(config, name) for _, _, name in config_file.settings() if name != "preset"}
        draft = like
        for _ in range(2):  # what goes with a choice, such as a rate with an optimizer, is seen once that is made
            others = {name: value for name, value in settings.items() if value != configs.get(draft.config, name)}
            draft = replace(draft, changes={**draft.changes, **others}, targets_of=config.dataset)
        setup_draft.put(draft)
        st.session_state["data-asked"] = st.query_params["dataset"] = config.dataset
    for name in ("like", "window", "rate"):  # done: a click that cuts this page short before that finds them again
        st.query_params.pop(name, None)


def take_start() -> None:
    source, before = st.session_state["start"], setup_draft.now()
    if source in (FILE, None):
        return
    draft = proposed_draft(before.base.dataset) if source == PROPOSAL else preset_draft(source)
    setup_draft.put(replace(draft, changes=before.changes, targets_of=before.targets_of))


def draw_reasons(draft: Draft) -> None:
    if draft.source != PROPOSAL:
        st.caption(plain(" ".join(draft.reasons)))
        return
    with st.expander("Why these settings"):
        for reason in draft.reasons:
            st.markdown(f"- {plain(reason)}")


def draw_changed(draft: Draft) -> None:
    """What a person changed, each with a button that puts it back."""
    changed = draft.changed
    if not changed:
        return
    with st.expander(f"Changed by you: {', '.join(plain(label(name)) for name in changed)}"):
        with st.container(horizontal=True):
            for name, (before, value) in changed.items():
                st.button(
                    f"{plain(label(name))}: {plain(written(name, value))}, back to {plain(written(name, before))}",
                    key=f"back-{name}",
                    icon=":material/undo:",
                    on_click=setup_draft.put_back,
                    args=(name,),
                    **shell.acting(),
                )
            if len(changed) > 1:
                st.button(
                    "Put all back",
                    icon=":material/undo:",
                    on_click=setup_draft.put_back,
                    args=tuple(changed),
                    **shell.acting(),
                )
        st.caption(f"Everything else is as in {plain(draft.title)}.")


# -- a file


def take_file() -> None:
    """A file's settings become the draft, once; the page waits until there is one that can be used."""
    file = st.file_uploader(
        "TOML file",
        type="toml",
        max_upload_size=1,
        help="As Download as TOML, below, and python -m engine config write it.",
        disabled=files.read_only(),
    )
    if file is None:
        if setup_draft.now().source == FILE:
            return
        st.caption("The form starts from the settings of the file. Nothing is started by it.")
        st.stop()
    try:
        config = offered(config_file.loads(file.getvalue(), file.name))
    except (ConfigError, DataError) as error:
        shell.show_error(error.what, error.remedy)
        st.stop()
    if st.session_state.get("file-taken") != file.file_id:
        st.session_state["file-taken"] = file.file_id
        setup_draft.put(Draft(FILE, f"the file «{file.name}»", config))


def offered(config: RunConfig) -> RunConfig:
    """The same configuration, or a `ConfigError` where a file from a browser names what the form does not offer: a
    data set that nobody brought on the page Data is a path on this machine, and a model beyond the list is code."""
    if config.dataset not in offered_data():
        raise ConfigError(
            f"The file names a data set that this app does not offer: «{config.dataset}».",
            "Add it on the page Data first.",
        )
    configs.check_offered(config)
    dataset = pictures.dataset(config.dataset)
    config = configs.read_questions(config, dataset)
    at_fault = configs.problems(config, *dataset.sizes)
    for problem in (at_fault[name] for name in ("targets", "target_function") if name in at_fault):
        raise ConfigError(f"The targets of the file cannot be used: {problem}.", "Correct the file.")
    return config
