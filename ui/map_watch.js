// What a person does on a plotly chart of the page: shapes drawn on it, and the point that the pointer rests on.
//
// data: {plot: the class of the container that the chart stands in, what: "selected" or "hovered", look,
//        shapes: those that stand on the chart, picture: {index, src, alt, lines} or null, smooth}
// Sends the trigger "selected", [{x: [...], y: [...]}], the corners of each shape in the chart's own numbers, empty where
// the selection was taken back; or "hovered", the number of an image. The picture is shown beside the pointer; texts are
// set as text, never as HTML.
//
// Plotly's own lasso asks at each movement which of all points lie within, and draws them anew: a fifth of a second of
// 60,000 where there is no graphics card. So its lasso and its box are drawn here, as lines above the points, which no
// movement touches; what lies outside is veiled once the pointer is let go. Of plotly this needs the choice of its
// toolbar (`dragmode`), the area of the plot (`.nsewdrag`), and the ranges of the two axes.

const SVG = "http://www.w3.org/2000/svg"
const MODES = ["lasso", "select"]
const STEP = 2                   // pixels between the corners of a lasso
const SMALLEST = 4               // pixels of a shape's longer side: less is a click
const PATIENCE = 60              // milliseconds that the pointer rests before a picture is asked for
const SHOWN = new WeakMap()      // of each box, what is known here
const WATCHED = new WeakMap()    // of each chart, the listeners by what they are for

export default function ({ data, parentElement, setTriggerValue }) {
  const box = parentElement.querySelector(".beside-pointer")
  if (!SHOWN.has(box)) SHOWN.set(box, { pictures: new Map(), shapes: [], sent: "[]", drawn: null })
  const shown = SHOWN.get(box)
  shown.send = setTriggerValue
  if (shown.look !== data.look) shown.pictures.clear()      // what is said beside them is another
  shown.look = data.look
  if (data.picture) shown.pictures.set(data.picture.index, data.picture)
  if (data.picture && data.picture.index === shown.at) draw(data.picture)
  // The server's word, once it is another one: what was drawn since the last is not taken back by a repetition.
  const said = JSON.stringify(data.shapes)
  if (said !== shown.sent) shown.shapes = data.shapes
  shown.sent = said

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
  if (data.what === "selected") outline(place.querySelector(".js-plotly-plot"))
  // The chart comes after this, or is made anew: when it has other choices.
  shown.observer?.disconnect()
  shown.observer = new MutationObserver(watch)
  shown.observer.observe(place, { childList: true, subtree: true })

  // -- shapes

  function watchShapes(chart) {
    chart.addEventListener("pointerdown", (event) => begin(chart, event), true)
    chart.addEventListener("pointermove", (event) => move(chart, event), true)
    chart.addEventListener("pointerup", (event) => end(chart, event), true)
    chart.addEventListener("pointercancel", () => give_up(chart), true)
    // Of what is drawn here plotly hears nothing: neither that a lasso begins, nor of points passed over.
    for (const name of ["mousedown", "touchstart", "mousemove"])
      chart.addEventListener(name, (event) => shown.drawn && kept(event), { capture: true, passive: false })
    chart.addEventListener("dblclick", (event) => {
      if (!areaOf(chart, event)) return
      kept(event)
      if (shown.shapes.length) send(chart, [])
    }, true)
    chart.on("plotly_afterplot", () => outline(chart))
    chart.on("plotly_relayouting", () => outline(chart))
    outline(chart)
  }

  function kept(event) {
    event.stopPropagation()
    if (event.cancelable) event.preventDefault()
  }

  // The area of the plot, where an event on it begins a shape.
  function areaOf(chart, event) {
    return MODES.includes(chart._fullLayout?.dragmode) ? event.target.closest?.(".nsewdrag") : null
  }

  function begin(chart, event) {
    const area = areaOf(chart, event)
    if (!area || event.button !== 0 || !event.isPrimary) return
    area.setPointerCapture(event.pointerId)
    shown.drawn = { id: event.pointerId, area, box: chart._fullLayout.dragmode === "select", more: event.shiftKey, points: [] }
    kept(event)
    add(event)
  }

  function move(chart, event) {
    if (event.pointerId !== shown.drawn?.id) return
    event.stopPropagation()
    const between = event.getCoalescedEvents?.() ?? []
    for (const each of between.length ? between : [event]) add(each)
    outline(chart)
  }

  function end(chart, event) {
    if (event.pointerId !== shown.drawn?.id) return
    event.stopPropagation()
    add(event)
    const { more } = shown.drawn, points = cornersDrawn()
    shown.drawn = null
    const [width, height] = [0, 1].map((axis) => Math.max(...points.map((at) => at[axis])) - Math.min(...points.map((at) => at[axis])))
    if (Math.max(width, height) < SMALLEST) return outline(chart)
    const range = rangesOf(chart), { width: w, height: h } = sizeOf(chart)
    const shape = {
      x: points.map(([x]) => range.x[0] + (x / w) * (range.x[1] - range.x[0])),
      y: points.map(([, y]) => range.y[1] - (y / h) * (range.y[1] - range.y[0])),
    }
    send(chart, more ? [...shown.shapes, shape] : [shape])
  }

  function give_up(chart) {
    shown.drawn = null
    outline(chart)
  }

  function send(chart, shapes) {
    shown.shapes = shapes
    outline(chart)
    shown.send("selected", shapes)
  }

  // A corner in pixels of the plot's area, which it does not leave.
  function add({ clientX, clientY }) {
    const { area, points } = shown.drawn, { left, top, width, height } = area.getBoundingClientRect()
    const at = [Math.min(Math.max(clientX - left, 0), width), Math.min(Math.max(clientY - top, 0), height)]
    const last = points.at(-1)
    if (!last || Math.hypot(at[0] - last[0], at[1] - last[1]) >= STEP) points.push(at)
    shown.drawn.last = at
  }

  function cornersDrawn() {
    const { box: isBox, points, last } = shown.drawn, [[x0, y0]] = points, [x1, y1] = last
    return isBox ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : [...points, last]
  }

  function rangesOf(chart) {
    const { xaxis, yaxis } = chart._fullLayout
    return { x: xaxis.range.map(Number), y: yaxis.range.map(Number) }
  }

  function sizeOf(chart) {
    return chart.querySelector(".nsewdrag").getBoundingClientRect()
  }

  // The shapes that stand, with a veil over what is outside, or the one that is being drawn.
  function outline(chart) {
    const area = chart?.querySelector(".nsewdrag"), frame = chart?.querySelector(".svg-container")
    if (!area || !frame) return
    const svg = overlay(frame), at = area.getBoundingClientRect(), from = frame.getBoundingClientRect()
    Object.assign(svg.style, { left: `${at.left - from.left}px`, top: `${at.top - from.top}px` })
    svg.setAttribute("width", at.width)
    svg.setAttribute("height", at.height)
    const range = rangesOf(chart)
    const standing = shown.shapes.map(({ x, y }) => x.map((_, i) => [
      ((x[i] - range.x[0]) / (range.x[1] - range.x[0])) * at.width,
      ((range.y[1] - y[i]) / (range.y[1] - range.y[0])) * at.height,
    ]))
    const now = shown.drawn ? [cornersDrawn()] : []
    const paths = (!shown.drawn || shown.drawn.more ? [...standing, ...now] : now).map(pathOf)
    const [mask, veil, ...lines] = svg.children
    mask.replaceChildren(node("rect", { width: "100%", height: "100%", fill: "white" }),
      ...paths.map((d) => node("path", { d, fill: "black", "fill-rule": "evenodd" })))
    veil.style.display = paths.length && !shown.drawn ? "" : "none"
    veil.setAttribute("fill", getComputedStyle(box).getPropertyValue("--st-background-color") || "white")
    for (const line of lines) line.setAttribute("d", paths.join(" "))
  }

  function pathOf(points) {
    return points.length ? `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}Z` : ""
  }

  function overlay(frame) {
    const known = frame.querySelector(":scope > .drawn-around")
    if (known) return known
    const svg = node("svg", { class: "drawn-around", "aria-hidden": "true" })
    Object.assign(svg.style, { position: "absolute", overflow: "hidden", pointerEvents: "none" })
    const mask = node("mask", { id: `outside-${data.plot}` })
    const veil = node("rect", { width: "100%", height: "100%", opacity: 0.72, mask: `url(#outside-${data.plot})` })
    const lines = [["#fff", 3.5, 0.8], ["#3b444d", 1.5, 1]].map(([stroke, width, opacity]) =>
      node("path", { fill: "none", stroke, "stroke-width": width, "stroke-opacity": opacity, "stroke-linejoin": "round" }))
    svg.append(mask, veil, ...lines)
    frame.append(svg)
    return svg
  }

  function node(name, attributes) {
    const made = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
    return made
  }

  // -- the pointer

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
    chart.addEventListener("pointerdown", hide, true)
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
