// A grid of images that can be enlarged, walked through with the arrow keys, and ticked.
//
// data: {size, small, smooth, enlarged, smooth_enlarged, ticking, bars_title, beside: {title, src, alt} or null,
//        pictures, labels,
//        tiles: [{index, src, alt, title, lines, effect, ticked, tick_label, sentence, details, bars, bars_note, shares, groups, choice, link, link_text}]}
//        `shares` (name, share, text) are drawn as bars from 0; `groups` (title, indices) name images of `pictures`,
//        {index: {src, alt}}; `labels` and `choice` are those of labelling.js, null without
// Sends one trigger, "decided", {ticks: {index: on}, labels: {index: number or null}}: every change that the server has
// not answered yet, for a later trigger takes the place of an earlier one, whatever their names.

const LONG = 12                  // characters that may not fit below a picture: pointing at them shows them whole
const SHOWN = new WeakMap()      // of each grid, what is drawn in it

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value
    else if (name in element) element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid")
  const dialog = parentElement.querySelector("dialog")
  if (!SHOWN.has(grid)) SHOWN.set(grid, { pending: {}, at: 0 })
  const shown = SHOWN.get(grid)

  for (const tile of data.tiles)
    if (shown.pending[tile.index] === tile.ticked) delete shown.pending[tile.index]
  const isTicked = (tile) => shown.pending[tile.index] ?? tile.ticked

  const labels = data.labels && labelling({ data, shown, isTicked, tick, refresh: refreshTicks, send })

  function send() {
    setTriggerValue("decided", { ticks: { ...shown.pending }, labels: { ...shown.labels } })
  }

  // «train:17»; in `short`, below a small picture, «17».
  function tickBox(tile, short = false) {
    const name = tile.tick_label
    const box = make("input", {
      type: "checkbox", checked: isTicked(tile), ariaLabel: name,
      onclick: (event) => event.shiftKey ? tickUpTo(tile, box.checked) : tick(tile, box.checked),
    })
    box.dataset.index = tile.index
    return make("label", { class: "tick" }, box, short ? name.split(":").at(-1) : name)
  }

  // The words below say the same: «helps 10.3».
  function effectBar([share, kind]) {
    return make("div", { class: "effect", ariaHidden: "true" }, mark(share, kind))
  }

  function mark(share, kind) {
    const drawn = make("span", { class: `bar ${kind}` })
    drawn.style.width = `${50 * Math.abs(share)}%`
    drawn.style[share < 0 ? "right" : "left"] = "50%"
    return drawn
  }

  function tick(tile, on) {
    tickAll([tile], on)
  }

  // All from the one that was ticked last to this one.
  function tickUpTo(tile, on) {
    const [to, from] = [tile.index, shown.last ?? tile.index].map((index) => data.tiles.findIndex((one) => one.index === index))
    tickAll(data.tiles.slice(Math.min(from, to), Math.max(from, to) + 1), on)
    shown.last = tile.index
  }

  function tickAll(tiles, on) {
    for (const tile of tiles) shown.pending[tile.index] = on
    shown.last = tiles.at(-1).index
    refreshTicks()
    send()
  }

  function refreshTicks() {
    const ticked = Object.fromEntries(data.tiles.map((tile) => [tile.index, isTicked(tile)]))
    for (const box of parentElement.querySelectorAll(".tick input")) box.checked = ticked[box.dataset.index]
    if (!labels) return
    data.tiles.forEach((tile, at) => grid.children[at] && labels.update(grid.children[at], tile))
    if (data.tiles[shown.at]) labels.update(dialog, data.tiles[shown.at])
  }

  // Of the keys that decide on an image and go on to the next; whether this was one of them.
  function decide(event, tile, next) {
    const key = event.key.toLowerCase()
    if (!data.ticking || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return false
    if (key === "t") tick(tile, !isTicked(tile))
    else if (!labels?.key(key, tile)) return false
    next()
    return true
  }

  function tileOf(tile, at) {
    const picture = make("img", { src: tile.src, alt: tile.alt, width: data.size, height: data.size })
    const open = make("button", { class: "open", type: "button", title: "Enlarge", onclick: () => enlarge(at) }, picture)
    const words = make("div", { class: "words" },
      ...[tile.title, ...tile.lines].map((line, at) => make(at ? "div" : "b", { title: line.length > LONG ? line : "" }, line)))
    const item = make("li", {}, open, ...(tile.effect ? [effectBar(tile.effect)] : []), words)
    if (data.ticking) item.append(tickBox(tile, data.small))
    if (labels) item.append(...labels.below(tile))
    item.dataset.index = tile.index
    return item
  }

  function bar([name, share, text]) {
    const drawn = mark(share, share < 0 ? "harms" : "helps")
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track" }, drawn), make("td", { class: "figure" }, text))
  }

  function share([name, value, text]) {
    const mark = make("span", { class: "bar share" })
    mark.style.width = `${100 * value}%`
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track plain" }, mark), make("td", { class: "figure" }, text))
  }

  // Other images, small, below a heading each.
  function alike([title, indices]) {
    const pictures = indices.map((index) => make("img", { ...data.pictures[index], title: data.pictures[index].alt }))
    return [make("h3", {}, title), make("div", { class: "alike" }, ...pictures)]
  }

  function enlarge(at) {
    const focused = parentElement.activeElement?.getAttribute("aria-label")
    shown.at = at
    const tile = data.tiles[at]
    const rows = tile.details.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))
    const facts = make("div", { class: "facts" })
    if (labels) facts.append(make("div", { class: "choose" }, ...labels.enlarged(tile)))
    if (tile.sentence) facts.append(make("p", { class: "sentence" }, tile.sentence))
    facts.append(make("table", {}, make("tbody", {}, ...rows)))
    if (tile.bars.length)
      facts.append(make("h3", {}, data.bars_title), ...(tile.bars_note ? [make("p", { class: "note" }, tile.bars_note)] : []),
        make("div", { class: "bars", tabIndex: 0, role: "region", "aria-label": data.bars_title },
          make("table", {}, make("tbody", {}, ...tile.bars.map(bar)))))
    if (tile.shares.length) facts.append(make("h3", {}, data.shares_title), make("table", {}, make("tbody", {}, ...tile.shares.map(share))))
    facts.append(...tile.groups.flatMap(alike))
    if (data.ticking) facts.append(tickBox(tile))
    if (data.ticking) facts.append(make("p", { class: "keys" }, `Keys: ← → other images; then on to the next: T ticks or unticks${labels ? ", A accepts the model's label, X leaves it out" : ""}`))
    if (tile.link) facts.append(make("a", { href: tile.link, target: "_self" }, tile.link_text))
    const step = (name, by, label) => make("button", {
      type: "button", class: "step", disabled: !data.tiles[at + by], onclick: () => turn(by), "aria-label": label, title: `${label} (arrow key)`,
    }, name)
    dialog.replaceChildren(
      make("header", {},
        make("h2", {}, tile.title), make("span", {}, `${at + 1} of ${data.tiles.length} on this page`),
        step("←", -1, "Previous image"), step("→", 1, "Next image"),
        make("button", { type: "button", class: "step close", "aria-label": "Close", title: "Close (Escape)", onclick: () => dialog.close() }, "✕")),
      make("div", { class: "body" }, make("div", { class: "pictures" }, ...pictures(tile)), facts))
    dialog.setAttribute("aria-label", tile.title)
    refreshTicks()
    if (!dialog.open) dialog.showModal()
    const buttons = [...dialog.querySelectorAll(".step:enabled")]
    ;(buttons.find((button) => button.getAttribute("aria-label") === focused) ?? buttons.at(-1)).focus()
  }

  // The image, and beside it the one that the page explains.
  function pictures(tile) {
    const large = ({ src, alt }) => make("img", { src, alt, width: data.enlarged })
    if (!data.beside) return [large(tile)]
    return [[tile, tile.title], [data.beside, data.beside.title]].map(([one, title]) =>
      make("figure", {}, large(one), make("figcaption", {}, title)))
  }

  function turn(by) {
    if (data.tiles[shown.at + by]) enlarge(shown.at + by)
  }

  // Where the arrow keys lead in the grid: to the neighbour, or to the tile above or below.
  function neighbour(key, at) {
    const items = [...grid.children]
    const columns = Math.max(1, items.findIndex((item) => item.offsetTop > items[0].offsetTop))
    return items[at + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key]]
  }

  grid.onkeydown = (event) => {
    const item = event.target.closest("li"), at = [...grid.children].indexOf(item)
    if (item && decide(event, data.tiles[at], () => grid.children[at + 1]?.querySelector(".open").focus())) return
    if (!event.key.startsWith("Arrow") || !item) return
    event.preventDefault()
    neighbour(event.key, at)?.querySelector(".open").focus()
  }
  dialog.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    if (event.target.tagName === "SELECT") { /* its own keys */ }
    else if (by) turn(by)
    else decide(event, data.tiles[shown.at], () => turn(1))
    event.stopPropagation()          // Streamlit has keys of its own
  }
  dialog.onclose = () => grid.children[shown.at]?.querySelector(".open").focus()
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close() }      // beside it

  const drawn = data.tiles.map(({ ticked, choice, ...rest }) => ({ ...rest, suggested: choice?.suggested }))
  const content = JSON.stringify([data.size, data.ticking, data.beside, drawn])
  if (content !== shown.content) {
    shown.content = content
    grid.style.setProperty("--size", `${data.size}px`)
    grid.classList.toggle("small", data.small)
    grid.classList.toggle("smooth", data.smooth)
    dialog.classList.toggle("smooth", data.smooth_enlarged)
    grid.replaceChildren(...data.tiles.map(tileOf))
    if (dialog.open) dialog.close()
  }
  refreshTicks()
}
