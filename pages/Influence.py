"""Influence: the training images that helped and harmed a target most."""

import dataclasses

import streamlit as st

from engine import influence, trust
from engine.config import REPLAY_MODES, TARGET_FUNCTIONS
from ui import formats, gallery, pictures, shell, ticks

SHOWN = (6, 12, 24, 48)
TICKED = 32            # of the ticked images, as small tiles


@st.cache_data(max_entries=64, show_spinner=False)
def ranked(sha256: str, row: int, function: str, k: int, _run, _score_set: str):
    """By content: a score set's name says too little, for it is used again after a deletion."""
    scores_N = _run.scores(_score_set)[row]
    return scores_N, influence.rank(scores_N, function, k)


def describe_target(dataset, view) -> None:
    indices = view.test_indices.tolist()
    if len(indices) == 1:
        st.html(pictures.picture(dataset.name, "test", indices[0]))
    else:
        pictures.plain_tiles(dataset.name, "test", indices[:20])
        st.caption(f"The first {len(indices[:20])} of {formats.count(len(indices), 'test images')}; "
                   "values are means over all of them.")
    st.markdown(f"**{view.title}**")
    rows = {"True label": dataset.classes[view.true_label] if view.true_label is not None else "several"}
    if view.predicted_label is not None:
        right = "right" if view.predicted_label == view.true_label else "wrong"
        rows["Predicted label"] = f"{dataset.classes[view.predicted_label]} ({right})"
        rows["Probability of it"] = formats.percent(view.predicted_probability)
    else:
        rows["Classified right"] = formats.percent(view.accuracy)
    rows["Probability of the true label"] = formats.percent(view.probability)
    rows["Loss"] = f"{view.loss:.4f} nats"
    rows["Margin"] = f"{view.margin:+.3f} logits"
    st.table(rows)


def further_targets(run, dataset) -> None:
    """Scores of more targets: from the kept trajectory, or after training once more."""
    with st.expander("Explain further targets of this run", icon=":material/add:"):
        wrong = influence.misclassified(run, dataset)[:24].tolist()
        names = {f"test:{i}": f"test:{i} · {dataset.classes[dataset.test_labels[i]]}, misclassified" for i in wrong}
        names |= {f"class:{c}": f"class:{c} · all test images of {name}" for c, name in enumerate(dataset.classes)}
        names["test:all"] = "test:all · all test images"
        chosen = st.multiselect("Targets", list(names), format_func=lambda t: names.get(t, t),
                                accept_new_options=True, placeholder="Choose, or type test:INDEX")
        ready = [mode for mode, at_once in run.modes().items() if at_once]
        function_side, mode_side = st.columns(2)
        function = function_side.radio("Target function", TARGET_FUNCTIONS, horizontal=True)
        mode = mode_side.selectbox(
            "Replay mode", REPLAY_MODES, index=REPLAY_MODES.index(run.kept or "memory"), key=f"mode-{run.id}",
            format_func=lambda m: f"{m}: begins at once" if m in ready else f"{m}: trains once more first")
        at_once = (f"Ready: {' and '.join(ready)} mode, from the checkpoints on disk." if ready else
                   "This run keeps no checkpoints.")
        st.caption(f"{at_once} {'Another mode' if ready else 'Every mode'} trains once more first, to the same states: "
                   "they are checked against the digests recorded in training.")
        if st.button("Replay for these targets", disabled=not chosen):
            shell.manager().submit_targets(run.id, tuple(chosen), function, mode)
            st.switch_page("pages/Live.py", query_params={"run": run.id})


def what_if(run, dataset, target, scores_N) -> None:
    """The predicted change if the ticked images had not been there, and a retraining that checks it."""
    st.subheader("What if?")
    ticked = ticks.of(run)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        many = st.number_input("Images", min_value=1, max_value=len(scores_N), value=50, step=10, width=140)
        st.button("Tick the most harmful", icon=":material/arrow_upward:", on_click=lambda: ticks.add(
            run, influence.rank(scores_N, target.function, many).harmful))
        st.button("Tick the most helpful", icon=":material/arrow_downward:", on_click=lambda: ticks.add(
            run, influence.rank(scores_N, target.function, many).helpful))
        st.button("Clear the ticks", icon=":material/clear:", disabled=not ticked, on_click=ticks.clear, args=(run,))
    if not ticked:
        st.caption("Tick training images above: what would this target's loss be without them?")
        return
    pictures.plain_tiles(dataset.name, "train", ticked[:TICKED])
    if ticked[TICKED:]:
        st.caption(f"The first {TICKED} of them.")
    labels = ["Leave them out", *(f"Label them {name}" for name in dataset.classes)]
    asked = st.selectbox(f"{formats.count(len(ticked), 'images')} ticked", labels, key=f"do-{run.id}")
    relabelled = {} if asked == labels[0] else dict.fromkeys(ticked, labels[1:].index(asked))
    left_out = [] if relabelled else ticked
    # A target scored since is not in the report; checking again gives it, and trains nothing again.
    tried = [w for w in trust.what_ifs(run)
             if w["left_out"] == left_out and w["relabelled"] == {str(i): c for i, c in relabelled.items()}
             and target.key in [t["key"] for t in w["targets"]]]
    if tried:
        shown = tried[-1]["targets"]
    elif relabelled:
        shown = []
    else:
        shown = [dataclasses.asdict(w) for w in trust.predict(run, dataset, ticked)]
    for what in shown:
        if what["key"] == target.key:
            st.markdown(formats.what_if_change(what))
            st.table(formats.what_if_table(what))
    if relabelled:
        st.caption("The scores tell what an image's presence does, not what another label would: there is no prediction, "
                   "only the check.")
    if [w for w in shown if w["key"] != target.key]:
        with st.expander("The run's other targets"):
            for what in shown:
                if what["key"] != target.key:
                    st.markdown(f"**{influence.title(what['name'], dataset)}** · {what['function']}")
                    st.table(formats.what_if_table(what))
    if tried:
        st.caption(f"Retrained: test accuracy {formats.percent(tried[-1]['test_accuracy_before'])} before, "
                   f"{formats.percent(tried[-1]['test_accuracy'])} after.")
    elif st.button("Check by retraining", type="primary", icon=":material/science:"):
        shell.manager().submit_what_if(run.id, left_out, relabelled)
        st.switch_page("pages/Live.py", query_params={"run": run.id})


def draw(run) -> None:
    config = run.config
    dataset = pictures.dataset(config.dataset)
    targets = {t.key: t for t in run.targets()}
    asked = st.query_params.get("target")
    if not targets:
        # Cleaning sets `scored` to false; before the first replay it is not there at all.
        deleted = run.manifest.get("scored") is False
        st.info("The scores of this run were deleted." if deleted else
                f"This run has no scores yet; it is {run.status}.", icon=":material/info:")
        st.page_link("pages/Live.py", label="See it on Live", query_params={"run": run.id},
                     icon=":material/monitoring:")
        if run.manifest.get("trained"):
            further_targets(run, dataset)
        return
    if asked not in targets and asked is not None:
        st.warning(f"Run {run.id} has no scores for the target in the link; another one is shown.",
                   icon=":material/warning:")
    names = {key: f"{influence.title(t.name, dataset)} · {t.function}" for key, t in targets.items()}
    left, right = st.columns([3, 1])
    keys = list(targets)
    key = left.selectbox("Target", keys, index=keys.index(asked) if asked in targets else 0,
                         format_func=names.get, key=f"target-{run.id}")
    asked_k = st.query_params.get("k", "")
    k = right.selectbox("Images a side", SHOWN, key="k",
                        index=[str(n) for n in SHOWN].index(asked_k) if asked_k in map(str, SHOWN) else 1)
    st.query_params.from_dict({"run": run.id, "target": key, "k": str(k)})

    target = targets[key]
    scores_N, ranking = ranked(run.manifest["files"][f"scores/{target.score_set}.npy"], target.row,
                               target.function, k, run, target.score_set)
    st.markdown(influence.meaning(target.function))
    side, lists = st.columns([1.3, 3.2], gap="large")
    with side:
        describe_target(dataset, influence.view(run, dataset, target.name))
    with lists:
        helpful, harmful = st.columns(2, gap="large")
        for column, heading, indices, effect in (
                (helpful, "Most helpful", ranking.helpful, "improved"), (harmful, "Most harmful", ranking.harmful, "worsened")):
            with column:
                st.subheader(heading)
                st.caption(f"Training on these {effect} the target's {target.function} most; scores in "
                           f"{influence.unit(target.function)}")
                tiles = [gallery.Tile("train", i, f"{rank}. {dataset.classes[dataset.train_labels[i]]}",
                                      (formats.arrow_score(scores_N[i]),)) for rank, i in enumerate(indices.tolist(), 1)]
                ticks.tiles(run, tiles, heading.split()[1])
    with shell.guarded():
        what_if(run, dataset, target, scores_N)
    st.subheader("All scores")
    pictures.chart(pictures.histogram(scores_N, influence.unit(target.function)), "histogram",
                   f"Histogram of the scores of {len(scores_N)} training images")
    st.caption(f"Scores of {formats.count(len(scores_N), 'training images')}; the vertical axis is logarithmic. "
               f"The file is scores/{target.score_set}.npy, row {target.row}.")
    further_targets(run, dataset)


with shell.page("Influence"):
    draw(shell.chosen_run(shell.runs(), "There is no run to look at yet."))
