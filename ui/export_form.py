"""A run for other programs: what will be written, how large it is, the button, what is there, and the equal command."""

import shlex
from collections.abc import Callable

import streamlit as st

from engine import files, space
from engine.export import write as exports
from engine.export.material import ALL, Material
from engine.jobs import export as jobs
from engine.jobs.export import Export
from ui import download, formats, link, shell
from ui.run_choice import RunView
from ui.text import line, plain

MOST = 500_000_000  # bytes of a file that goes through the browser: the server holds it whole while it does

SPLIT_WORDS = {ALL: "Training and test images", "train": "Training images", "test": "Test images"}


def draw(which: Callable[[], RunView], where: str) -> None:
    """A row that folds out; `which` gives, or asks for, the run in it. `where` tells this page's widgets from another
    page's."""
    with st.expander(
        "Hand over: export for other programs", icon=":material/output:", key=f"export-{where}", on_change="rerun"
    ) as row:
        if row.open:
            with shell.guarded():
                _draw_form(which(), where)


def _draw_form(run: RunView, where: str) -> None:
    titles = {name: format.title for name, format in exports.FORMATS.items()}
    name = _one_of("For", titles, f"export-format-{where}")
    gone = _no_longer_scored(run, f"export-targets-{where}-{run.id}")
    format = exports.FORMATS[name]
    st.caption(format.says)
    split_side, target_side = st.columns(2)
    with split_side:
        split = _one_of("Images", SPLIT_WORDS, f"export-split-{where}")
    chosen = target_side.multiselect(
        "Scores of",
        list(run.targets),
        key=f"export-targets-{where}-{run.id}",
        format_func=run.titles.__getitem__,
        placeholder="All targets" if run.targets else "This run has no scores",
        disabled=not run.targets,
    )
    pixels = format.images and st.checkbox(
        "PNG of the pixels that the model saw, in place of the source files",
        key=f"export-pixels-{where}",
        help="Needed where the source files are gone. Images that have no file of their own become PNG in any case.",
    )
    job = Export(name, tuple(chosen), split, bool(pixels))
    material = Material.of(run.folder, job.targets, split, run.dataset)
    size = exports.size(material, name, job.pixels)
    _say(material, name, size)
    if gone:
        was, has = ("was", "has") if len(gone) == 1 else ("were", "have")
        st.warning(
            f"{formats.count(len(gone), 'targets')} that {was} chosen {has} no scores any more: "
            f"{plain(', '.join(gone))}. Nothing has been exported; «Export» now writes what this form says.",
            icon=":material/warning:",
        )
    pressed = st.button(
        "Export",
        type="primary",
        icon=":material/output:",
        key=f"export-start-{where}",
        **shell.acting(help="Written in the background, below the run's folder; then it can be downloaded."),
    )
    if pressed and not gone:
        shell.submit(run.id, job)
    st.code(command(run, job), language=None, wrap_lines=True)
    draw_files(run, where)


def _one_of(label: str, words: dict[str, str], key: str) -> str:
    """One of the keys of `words`, the first of them to begin with."""
    link.needed(key, next(iter(words)))
    return st.selectbox(label, list(words), key=key, format_func=words.__getitem__)


def _no_longer_scored(run: RunView, key: str) -> list[str]:
    """Targets that were chosen in the widget of this key, and whose scores were deleted meanwhile: the widget drops
    them, and of none chosen all would be exported."""
    return [target for target in st.session_state.get(key, ()) if target not in run.targets]


def _say(material: Material, name: str, size: int) -> None:
    """What will be written, before it is."""
    decided = len(material.corrections.labels), len(material.corrections.excluded)
    images = formats.count(material.rows, "images")
    targets = formats.count(len(material.targets), "targets")
    scores = "" if name == "folder" else f", the scores of {targets}"
    corrections = f"{formats.count(decided[0], 'corrected labels')} and {formats.count(decided[1], 'excluded images')}"
    free = space.disk_free(shell.root())
    st.markdown(
        f"**{images}**{scores}, {corrections}: about **{formats.size(size)}**. On the disk, {formats.size(free)} are "
        "free."
    )
    if material.record.window_phrase and name != "folder":
        st.caption(f"The scores are the {plain(material.record.window_phrase)}.")


def command(run: RunView, job: Export) -> str:
    """What does the same on the command line."""
    ending = exports.FORMATS[job.format].ending
    words = ["python", "-m", "engine", "export", run.id, "--format", job.format, "--out", f"{job.format}{ending}"]
    words += ["--targets", ",".join(job.targets)] if job.targets else []
    words += ["--split", job.split] if job.split != ALL else []
    words += ["--pixels"] if job.pixels else []
    return line(shlex.join(words))


# -- what is there


def draw_files(run: RunView, where: str) -> None:
    """The exports of the run that are there, newest first, each to be downloaded."""
    names = jobs.of_run(run.folder, run.manifest.files)
    if not names:
        return
    st.markdown("**Exported before**")
    with st.container(horizontal=True, key=f"exports-{where}"):
        for name in reversed(names):
            draw_download(run, name, where)
    if not files.read_only():
        st.caption("They are kept with the run, until «Delete exports» on *Runs and storage* frees their space.")


def draw_download(run: RunView, name: str, where: str) -> None:
    """One file; where it is too large to go through the browser, its place."""
    path = run.folder.path / jobs.FOLDER / name
    size = files.size_of(path)
    if size > MOST:
        st.caption(f"{plain(name)}, {formats.size(size)}, is too large for a download here. It is {plain(path)}.")
        return
    remedy = f"Delete the exports of run {run.id}, and export it again."
    download.button(
        f"{plain(name)} · {formats.size(size)}",
        lambda: files.read_bytes(path, remedy, MOST),  # when it is asked for
        name,
        key=f"download-{where}-{name}",
    )
