// What a person does on a plotly chart of the page: shapes drawn on it, and the point that the pointer rests on.
//
// data: {plot: the class of the container that the chart stands in, what: "selected" or "hovered", look,
//        picture: {index, src, alt, lines} or null, smooth}
// Sends the trigger "selected", [{x: [...], y: [...]}], the corners of each shape in the chart's own numbers, empty where
// the selection was taken back; or "hovered", the number of an image. The picture is shown beside the pointer; texts are
// set as text, never as HTML.

const OUTLINES = ".js-plotly-plot .selectionlayer path { pointer-events: none !important }"
const PATIENCE = 60              // milliseconds that the pointer rests before a picture is asked for
const SHOWN = new WeakMap()      // of each box, what is known here
const WATCHED = new WeakMap()    // of each chart, the listeners by what they are for

export default function ({ data, parentElement, setTriggerValue }) {
  const box = parentElement.querySelector(".beside-pointer")
  if (!SHOWN.has(box)) SHOWN.set(box, { pictures: new Map() })
  const shown = SHOWN.get(box)
  shown.send = setTriggerValue
  if (shown.look !== data.look) shown.pictures.clear()      // what is said beside them is another
  shown.look = data.look
  if (data.picture) shown.pictures.set(data.picture.index, data.picture)
  if (data.picture && data.picture.index === shown.at) draw(data.picture)

  const root = parentElement.getRootNode()
  const place = (root.querySelector(`.${data.plot}`) ?? document.querySelector(`.${data.plot}`))
  if (!place) return
  const watch = () => {
    const chart = place.querySelector(".js-plotly-plot")
    if (!chart || typeof chart.on !== "function") return
    if (!WATCHED.has(chart)) WATCHED.set(chart, new Set())
    if (WATCHED.get(chart).has(data.what)) return
    WATCHED.get(chart).add(data.what)
    if (data.what === "selected") watchShapes(chart)
    else watchPointer(chart)
  }
  watch()
  // The chart comes after this, or is made anew: when it has other choices.
  shown.observer?.disconnect()
  shown.observer = new MutationObserver(watch)
  shown.observer.observe(place, { childList: true, subtree: true })

  function watchShapes(chart) {
    // What was drawn around stays visible, and does not lie between the pointer and the points within.
    chart.append(Object.assign(document.createElement("style"), { textContent: OUTLINES }))
    chart.on("plotly_selected", (event) => event && shown.send("selected", shapes(event)))
    chart.on("plotly_deselect", () => shown.send("selected", []))
  }

  function shapes(event) {
    const drawn = (event.selections ?? []).map(corners).filter(Boolean)
    if (drawn.length) return drawn
    if (event.lassoPoints) return [{ x: [...event.lassoPoints.x], y: [...event.lassoPoints.y] }]
    if (event.range) return [corners({ type: "rect", x0: event.range.x[0], x1: event.range.x[1], y0: event.range.y[0], y1: event.range.y[1] })]
    return []
  }

  function corners({ type, path, x0, x1, y0, y1 }) {
    if (type === "rect") return { x: [x0, x1, x1, x0].map(Number), y: [y0, y0, y1, y1].map(Number) }
    if (typeof path !== "string") return null
    const numbers = (path.match(/[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?/gi) ?? []).map(Number)
    return { x: numbers.filter((_, i) => i % 2 === 0), y: numbers.filter((_, i) => i % 2 === 1) }
  }

  function watchPointer(chart) {
    chart.on("plotly_hover", ({ points, event }) => {
      const index = points.map((point) => point.customdata).map((one) => Array.isArray(one) ? one[0] : one).find(Number.isInteger)
      if (index === undefined) return
      shown.at = index
      shown.pointer = { x: event.clientX, y: event.clientY }
      clearTimeout(shown.waiting)
      const known = shown.pictures.get(index)
      if (known) return draw(known)
      box.hidden = true
      shown.waiting = setTimeout(() => shown.send("hovered", index), PATIENCE)
    })
    chart.on("plotly_unhover", hide)
    chart.addEventListener("pointerleave", hide)
    chart.addEventListener("pointerdown", hide)
  }

  function hide() {
    clearTimeout(shown.waiting)
    shown.at = null
    box.hidden = true
  }

  function draw({ src, alt, lines }) {
    const image = document.createElement("img")
    image.src = src
    image.alt = alt
    image.className = data.smooth ? "" : "square"
    box.replaceChildren(image, ...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })))
    box.hidden = false
    const { x, y } = shown.pointer, { offsetWidth: width, offsetHeight: height } = box
    box.style.left = `${x + 16 + width < innerWidth ? x + 16 : Math.max(0, x - 16 - width)}px`
    box.style.top = `${Math.max(0, Math.min(y - height / 2, innerHeight - height - 8))}px`
  }
}
