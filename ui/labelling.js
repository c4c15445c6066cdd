// What a person decides on the label of an image: the model's, another, leave it out, or it is right. Part of the module
// of gallery.js, which calls it for each tile, and whose `make` it uses.
//
// data.labels: {classes, suggested_by}; of each tile `choice`: {given, suggested or null, chosen or null}, numbers of classes.
// `shown.labels`, {index: number or null}, are the changes that `send` sends with the ticks.

function labelling({ data, shown, isTicked, tick, refresh, send }) {
  shown.labels ??= {}
  for (const tile of data.tiles)
    if (shown.labels[tile.index] === tile.choice.chosen) delete shown.labels[tile.index]
  const { classes } = data.labels

  // null: none, so that a ticked image is to be left out.
  function labelOf(tile) {
    if (!isTicked(tile)) return null
    return tile.index in shown.labels ? shown.labels[tile.index] : tile.choice.chosen
  }

  function choose(tile, label) {
    shown.pending[tile.index] = true
    shown.labels[tile.index] = label
    refresh()
    send()
  }

  function keep(tile) {
    delete shown.labels[tile.index]
    tick(tile, false)
  }

  const suggests = ({ choice }) => choice.suggested !== null && choice.suggested !== choice.given

  // Pressed once: the model's label; again: the image is as it was.
  function accept(tile) {
    if (!suggests(tile)) return
    if (labelOf(tile) === tile.choice.suggested) keep(tile)
    else choose(tile, tile.choice.suggested)
  }

  // Each of these is made for a tile, and brought up to date by `update`.
  function button(tile) {
    const name = classes[tile.choice.suggested]
    return make("button", {
      type: "button", class: "accept", "aria-label": `Accept the model's label ${name} for ${tile.tick_label}`,
      title: "Accept the model's label (key A)", onclick: () => accept(tile),
    }, `→ ${name}`)
  }

  function select(tile) {
    const option = (value, text) => make("option", { value }, text)
    const { given, suggested } = tile.choice
    const others = classes.map((name, number) => [number, name]).filter(([number]) => number !== given)
    const choices = make("select", { onchange: () => decide(tile, choices.value), "aria-label": `What to do with ${tile.tick_label}` },
      option("keep", `Keep it: ${classes[given]} is right`), option("leave out", "Leave it out"),
      ...others.map(([number, name]) => option(number, `Label it ${name}${number === suggested ? ", as the model does" : ""}`)))
    return choices
  }

  function decide(tile, value) {
    if (value === "keep") keep(tile)
    else choose(tile, value === "leave out" ? null : Number(value))
  }

  function update(parent, tile) {
    const label = labelOf(tile)
    for (const one of parent.querySelectorAll(".accept")) {
      one.setAttribute("aria-pressed", label !== null && label === tile.choice.suggested)
    }
    for (const one of parent.querySelectorAll(".other")) {
      one.textContent = label === null || label === tile.choice.suggested ? "" : `→ ${classes[label]}`
    }
    for (const one of parent.querySelectorAll("select")) one.value = isTicked(tile) ? (label ?? "leave out") : "keep"
  }

  return {
    update,
    below: (tile) => [make("div", { class: "other" }), ...(suggests(tile) ? [button(tile)] : [])],
    enlarged: (tile) => [select(tile), ...(suggests(tile) ? [button(tile)] : [])],
    // Of the keys T, A and X: whether the key was one of them.
    key(name, tile) {
      const act = { a: () => suggests(tile) && choose(tile, tile.choice.suggested), x: () => choose(tile, null) }[name]
      act?.()
      return Boolean(act)
    },
  }
}
