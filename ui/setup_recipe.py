"""Step 3 of the form: how the network is trained, with a picture of the learning rate and of what the model sees."""

import base64
import dataclasses

import streamlit as st

from engine import config as configs
from engine.config import Recipe, RunConfig
from engine.core.schedule import learning_rate, plan_for
from ui import augment_form, pictures, setup_draft, setup_fields
from ui.setup_draft import Form
from ui.text import markup

PLAIN = ("recipe.epochs", "recipe.batch_size", "recipe.peak_lr", "recipe.optimizer", "recipe.schedule", "recipe.seed")
AUGMENT, WEIGHTS = "recipe.augment", "recipe.class_weights"
AUGMENTED = 6  # training images in the preview of what the model sees
POINTS = 240  # of the learning rate's curve
WIDTH, HEIGHT = 480, 90
EQUAL, BALANCED, OWN = "none", "balanced", "own"
CLASS_WEIGHTS = {EQUAL: "All classes count the same", BALANCED: "Rare classes count more", OWN: "One number a class"}


def draw(form: Form) -> None:
    setup_fields.fields(form, PLAIN, explained=True)
    draw_rates(form)
    augment_form.choose(
        form.config.recipe.augment,
        None if form.dataset is None else form.dataset.image_shape,
        setup_fields.key_of(AUGMENT),
        take_augmentation,
        form.disabled,
    )
    setup_fields.remarks(form, AUGMENT)


def draw_advanced(form: Form) -> None:
    """What the chosen optimizer and schedule read comes first."""
    choices = [form.config.recipe.optimizer, form.config.recipe.schedule]
    first = [
        name
        for setting, choice in zip(("recipe.optimizer", "recipe.schedule"), choices, strict=True)
        for name in configs.READS[setting].get(choice, ())
    ]
    names = [name for name in setup_fields.names_of("recipe") if name not in (*PLAIN, AUGMENT, WEIGHTS)]
    names = [*(name for name in first if name in names), *(name for name in names if name not in first)]
    wrong = [name for name in (*names, WEIGHTS) if name in form.problems]
    with st.expander("Advanced", expanded=bool(wrong)):
        setup_fields.fields(form, names)
        choose_class_weights(form)


def take_augmentation(text: str) -> None:
    setup_draft.change(AUGMENT, text)


# -- the learning rate


def draw_rates(form: Form) -> None:
    """The learning rate over the steps, where the settings that decide it are sound."""
    if form.dataset is None or any(name.startswith("recipe.") for name in form.problems):
        return
    steps = len(plan_for(form.config.recipe, form.dataset.sizes.n_train))
    st.html(picture_of_rates(form.config.recipe, steps))
    at = [0, max(range(steps), key=lambda t: learning_rate(form.config.recipe, t, steps)), steps - 1]
    first, peak, last = (learning_rate(form.config.recipe, t, steps) for t in at)
    st.caption(
        f"Learning rate over {steps:,} steps: {first:.2g} at the first, {peak:.2g} at step {at[1] + 1:,}, "
        f"{last:.2g} at the last."
    )


def picture_of_rates(recipe: Recipe, steps: int) -> str:
    """HTML of the curve, drawn as an image."""
    count = min(steps, POINTS)
    at = [round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)]
    rates = [learning_rate(recipe, t, steps) for t in at]
    top = max(rates) or 1.0
    points = [
        (4 + (WIDTH - 8) * t / max(steps - 1, 1), HEIGHT - 6 - (HEIGHT - 12) * rate / top)
        for t, rate in zip(at, rates, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (points if len(points) > 1 else [(4, points[0][1]), *points]))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<line x1="4" y1="{HEIGHT - 5}" x2="{WIDTH - 4}" y2="{HEIGHT - 5}" stroke="{pictures.GREY}"/>'
        f'<polyline points="{line}" fill="none" stroke="{pictures.COLOURS[0]}" stroke-width="2.5"/></svg>'
    )
    words = f"Learning rate over {steps:,} steps, schedule {recipe.schedule}: its highest is {top:.2g}"
    return (
        f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" class="rates" '
        f'alt="{markup(words)}" style="width:100%;max-width:{WIDTH}px;display:block">'
    )


# -- the weights of the classes


def choose_class_weights(form: Form) -> None:
    value = form.config.recipe.class_weights
    key = setup_fields.key_of(WEIGHTS)
    kind = value if value in (EQUAL, BALANCED) else OWN
    first = list(CLASS_WEIGHTS)[0]
    left, right = st.columns([1, 2])
    with left:
        st.selectbox(
            setup_draft.label(WEIGHTS),
            list(CLASS_WEIGHTS),
            list(CLASS_WEIGHTS).index(setup_fields.begin(f"{key}-kind", kind, first)),
            format_func=CLASS_WEIGHTS.__getitem__,
            key=f"{key}-kind",
            help=setup_fields.plain_words(WEIGHTS),
            on_change=take_kind_of_weights,
            args=(1 if form.dataset is None else form.dataset.sizes.n_classes,),
            disabled=form.disabled,
        )
    with right:
        if kind == OWN:
            st.text_input(
                "Weight of each class, in the order of the classes",
                setup_fields.begin(key, configs.LISTS[WEIGHTS].write(value), ""),
                key=key,
                max_chars=200_000,
                on_change=setup_fields.take,
                args=(WEIGHTS,),
                disabled=form.disabled,
            )
    setup_fields.remarks(form, WEIGHTS)


def take_kind_of_weights(classes: int) -> None:
    kind = st.session_state[f"{setup_fields.key_of(WEIGHTS)}-kind"]
    setup_draft.change(WEIGHTS, (1.0,) * classes if kind == OWN else kind)


# -- what the model sees


def wants_preview(form: Form) -> bool:
    bad = form.problems.keys() & {AUGMENT, "recipe.seed", "recipe.epochs"}
    return form.dataset is not None and bool(form.config.recipe.augment) and not bad


def draw_preview(form: Form) -> None:
    """Some training images beside what the first epochs make of them. It loads torch."""
    assert form.dataset is not None
    pictures.augmented(form.dataset, _seen(form.config), range(min(AUGMENTED, form.dataset.sizes.n_train)))
    st.caption(
        "The image itself, and what each of the first epochs makes of it: the same in training, replay and "
        "retraining. Test images are never augmented."
    )


def _seen(config: RunConfig) -> Recipe:
    return dataclasses.replace(config.recipe, epochs=min(config.recipe.epochs, pictures.EPOCHS))
