"""Map: all training images on a plane, or those around a target; drawn around, looked at, and ticked."""

from ui import link, map_choices, map_drawing, map_selection, run_choice, shell, ticks

with shell.page("Map"):
    run = run_choice.chosen("There is no run to look at yet.")
    choices = map_choices.choose(run)
    if choices.ref is not None:
        run_choice.hold(run=run.id, target=choices.ref.key)
    with shell.guarded():
        map_drawing.draw(run, choices)
    with shell.guarded():
        map_selection.draw(run, choices)
    link.copy()
    ticks.bar(run)
