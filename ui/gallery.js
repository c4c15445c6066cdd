// A grid of images that can be enlarged, walked through with the arrow keys, and ticked.
//
// data: {size, ticking, bars_title, tiles: [{index, src, alt, title, lines, ticked, tick_label, details, bars, link, link_text}]}
// Sends the trigger "ticks", {index: on}: every change that the server has not answered yet, for a later
// trigger takes the place of an earlier one.

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

  function tickBox(tile) {
    const box = make("input", { type: "checkbox", checked: isTicked(tile), onchange: () => tick(tile, box.checked) })
    box.dataset.index = tile.index
    return make("label", { class: "tick" }, box, tile.tick_label)
  }

  function tick(tile, on) {
    shown.pending[tile.index] = on
    refreshTicks()
    setTriggerValue("ticks", { ...shown.pending })
  }

  function refreshTicks() {
    const ticked = Object.fromEntries(data.tiles.map((tile) => [tile.index, isTicked(tile)]))
    for (const box of parentElement.querySelectorAll(".tick input")) box.checked = ticked[box.dataset.index]
  }

  function tileOf(tile, at) {
    const picture = make("img", { src: tile.src, alt: tile.alt, width: data.size, height: data.size })
    const open = make("button", { class: "open", type: "button", title: "Enlarge", onclick: () => enlarge(at) }, picture)
    const words = make("div", { class: "words" }, make("b", {}, tile.title), ...tile.lines.map((line) => make("div", {}, line)))
    const item = make("li", {}, open, words)
    if (data.ticking) item.append(tickBox(tile))
    item.dataset.index = tile.index
    return item
  }

  function bar([name, value, text], largest) {
    const width = largest ? (50 * Math.abs(value)) / largest : 0
    const mark = make("span", { class: value < 0 ? "bar below" : "bar above" })
    mark.style.width = `${width}%`
    mark.style[value < 0 ? "right" : "left"] = "50%"
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track" }, mark), make("td", { class: "figure" }, text))
  }

  function enlarge(at) {
    const focused = parentElement.activeElement?.getAttribute("aria-label")
    shown.at = at
    const tile = data.tiles[at]
    const rows = tile.details.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))
    const largest = Math.max(0, ...tile.bars.map(([, value]) => Math.abs(value)))
    const facts = make("div", { class: "facts" }, make("table", {}, make("tbody", {}, ...rows)))
    if (tile.bars.length)
      facts.append(make("h3", {}, data.bars_title),
        make("div", { class: "bars", tabIndex: 0, role: "region", "aria-label": data.bars_title },
          make("table", {}, make("tbody", {}, ...tile.bars.map((one) => bar(one, largest))))))
    if (data.ticking) facts.append(tickBox(tile))
    if (tile.link) facts.append(make("a", { href: tile.link, target: "_self" }, tile.link_text))
    const step = (name, by, label) => make("button", {
      type: "button", class: "step", disabled: !data.tiles[at + by], onclick: () => turn(by), "aria-label": label, title: `${label} (arrow key)`,
    }, name)
    dialog.replaceChildren(
      make("header", {},
        make("h2", {}, tile.title), make("span", {}, `${at + 1} of ${data.tiles.length} on this page`),
        step("←", -1, "Previous image"), step("→", 1, "Next image"),
        make("button", { type: "button", class: "step close", "aria-label": "Close", title: "Close (Escape)", onclick: () => dialog.close() }, "✕")),
      make("div", { class: "body" }, make("img", { src: tile.src, alt: tile.alt }), facts))
    dialog.setAttribute("aria-label", tile.title)
    if (!dialog.open) dialog.showModal()
    const buttons = [...dialog.querySelectorAll(".step:enabled")]
    ;(buttons.find((button) => button.getAttribute("aria-label") === focused) ?? buttons.at(-1)).focus()
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
    const item = event.target.closest("li")
    if (!event.key.startsWith("Arrow") || !item) return
    event.preventDefault()
    neighbour(event.key, [...grid.children].indexOf(item))?.querySelector(".open").focus()
  }
  dialog.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    if (by) turn(by)
    event.stopPropagation()          // Streamlit has keys of its own
  }
  dialog.onclose = () => grid.children[shown.at]?.querySelector(".open").focus()
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close() }      // beside it

  const content = JSON.stringify([data.size, data.ticking, data.tiles.map(({ ticked, ...rest }) => rest)])
  if (content !== shown.content) {
    shown.content = content
    grid.style.setProperty("--size", `${data.size}px`)
    grid.replaceChildren(...data.tiles.map(tileOf))
    if (dialog.open) dialog.close()
  }
  refreshTicks()
}
