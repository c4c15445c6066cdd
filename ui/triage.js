// A queue of images that a person goes through with the keyboard alone: one image at a time, large, with what speaks
// for and against its label.
//
// data: {queue, count, first, classes, acting, why_not, enlarged, smooth, can_undo,
//        items: {position: item}, decisions: {position: label or "excluded"}, ticked: [position], looked: [position],
//        acked: {client: id}, undone: {id, position or null, text} or null, message}
//   item: {name, index or null, src, alt, given, model or null, lines: [[name, value]], shares: [[text, share, figure]],
//          groups: [[title, [{src, alt}]]], reason, detail, link}
//
// Whatever is pressed is drawn at once and sent as one trigger, "act": {client, at, have, actions}. `actions` are all that
// the server has not answered yet, in their order, each with a number, so that none is done twice and none is lost where
// a later trigger takes the place of an earlier one; `have` are the positions that need not be sent again. What an undo
// leads to, the server knows: keys that are pressed before it has answered wait, and so do those for an image that is
// not here yet.

const PLACES = new WeakMap() // of each root, what is drawn in it
const PATIENCE = 3000        // ms, after which an answer that has not come is no longer waited for
const AHEAD = 6              // images before the end of those that are here, at which more are asked for
const KEYS = 9               // classes that have a key each
const OPTIONS = 60           // classes that the list shows at once
const FIELD = "input, textarea, select, [contenteditable]"
const OPEN = '[role="dialog"], [role="alertdialog"], [role="listbox"], [data-testid="stPopoverBody"]'

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value
    else if (name in element) element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children.filter((child) => child !== null))
  return element
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".triage")
  if (!PLACES.has(root))
    PLACES.set(root, { client: Math.random().toString(36).slice(2), next: 1, actions: [], items: {}, waiting: [] })
  const here = PLACES.get(root)
  const { classes } = data

  if (here.queue !== data.queue) Object.assign(here, { queue: data.queue, items: {}, at: data.first, asked: null })
  Object.assign(here.items, data.items)
  here.sent = 0
  const acked = data.acked[here.client] ?? 0
  here.actions = here.actions.filter((action) => action.id > acked)
  if (data.undone && data.undone.client === here.client && data.undone.id === here.undoing) {
    here.undoing = null
    if (data.undone.position !== null) here.at = data.undone.position
    here.said = data.undone.text
  }
  if (here.undoing && here.undoing <= acked) here.undoing = null
  if (data.message) here.said = data.message

  // -- what is so: as the server said, with what it has not answered yet

  const item = () => here.items[here.at]
  const decisions = { ...data.decisions }
  const ticked = new Set(data.ticked)
  const looked = new Set(data.looked)
  for (const action of here.actions) apply(action)

  function apply(action) {
    if (action.queue !== here.queue) return
    if (action.kind === "decide") {
      if (action.now === null) delete decisions[action.at]
      else decisions[action.at] = action.now
    }
    if (action.kind === "tick") action.now ? ticked.add(action.at) : ticked.delete(action.at)
    if (action.kind === "decide" || action.kind === "look") looked.add(action.at)
  }

  const decision = () => decisions[here.at] ?? null

  // -- what is sent

  function act(kind, more = {}) {
    const action = { id: here.next++, kind, at: here.at, item: item()?.name, queue: here.queue, ...more }
    here.actions.push(action)
    apply(action)
    send()
    return action
  }

  // One at a time: a second one would stop the server while it draws the answer to the first.
  function send() {
    if (here.sent && performance.now() - here.sent < PATIENCE) return
    here.sent = performance.now()
    here.asked = here.at
    here.upTo = here.next - 1
    setTriggerValue("act", {
      client: here.client, queue: here.queue, at: here.at, have: Object.keys(here.items).map(Number), actions: here.actions,
    })
  }

  function askForMore() {
    const wanted = [here.at, Math.min(here.at + AHEAD, data.count - 1)]
    if (wanted.every((at) => here.items[at]) || here.asked === here.at) return
    send()
  }

  // -- what a person does

  function go(by) {
    const to = here.at + by
    here.said = to < 0 ? "This is the first." : to >= data.count ? atTheEnd() : ""
    if (to >= 0 && to < data.count) here.at = to
  }

  const atTheEnd = () => looked.size >= data.count ? `All ${data.count} were looked at.` : "This is the last; some before it were not looked at."

  function next() {
    if (!looked.has(here.at) && data.acting) act("look")
    go(1)
  }

  function decide(label) {
    if (!may()) return
    const now = label === item().given ? null : label
    act("decide", { was: decision(), now })
    go(1)
  }

  const exclude = () => {
    if (!may()) return
    const on = decision() !== "excluded"
    act("decide", { was: decision(), now: on ? "excluded" : null })
    if (on) go(1)
  }

  function tick() {
    if (!may()) return
    act("tick", { now: !ticked.has(here.at) })
  }

  function undo() {
    if (!data.acting) {
      here.said = data.why_not
      return
    }
    if (!data.can_undo && !here.actions.some((action) => action.kind === "decide" || action.kind === "tick")) {
      here.said = "There is nothing to undo."
      return
    }
    here.undoing = act("undo").id
  }

  function accept() {
    if (item().model === null) here.said = "What the model says of this image is not known."
    else decide(item().model)
  }

  // Whether something can be decided on this image; else it is said why not.
  function may() {
    if (!data.acting) here.said = data.why_not
    else if (item().index === null) here.said = "This file is not in the data set: there is nothing to decide."
    return data.acting && item().index !== null
  }

  const COMMANDS = {
    x: exclude, " ": tick, u: undo, n: next, p: () => go(-1), a: accept, k: () => decide(item().given),
    "?": () => { here.keys = !here.keys },
    0: () => {
      if (classes.length <= KEYS) here.said = noClass(0)
      else if (may()) here.choosing = { text: "", at: 0 }
    },
    ArrowRight: next, ArrowLeft: () => go(-1),
  }

  const noClass = (key) => `There is no class ${key}: there are ${classes.length}.`

  // Whether a key means something here.
  function press(key) {
    const number = /^[1-9]$/.test(key) ? Number(key) - 1 : null
    if (number === null && !(key in COMMANDS)) return false
    if (here.undoing || !item()) {         // the answer to what was pressed before is on its way
      if (here.waiting.at(-1) !== "0") here.waiting.push(key)      // after 0 comes a name, not keys
      return true
    }
    here.said = ""
    if (number === null) COMMANDS[key]()
    else if (number < classes.length) decide(number)
    else here.said = noClass(key)
    return true
  }

  function pressed(key) {
    if (!press(key)) return false
    draw()
    askForMore()
    return true
  }

  here.onkey = (event) => {
    const target = event.composedPath()[0]
    const inside = event.composedPath().includes(root)
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || here.choosing) return
    if (target.matches?.(FIELD) || document.querySelector(OPEN)) return
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
    if ((key === " " || key === "Enter") && target.closest?.("button, a, summary, [role=button]")) return   // they have it
    if (key.startsWith("Arrow") && !inside && target !== document.body) return
    if (!pressed(key)) return
    event.preventDefault()
    event.stopPropagation()
  }

  // -- what is seen

  function button(key, text, onclick, more = {}) {
    return make("button", {
      type: "button", class: "key", "aria-keyshortcuts": more.shortcut ?? key, disabled: more.disabled ?? false,
      title: more.title ?? "",
      ...("pressed" in more ? { "aria-pressed": String(more.pressed) } : {}),
      onclick: (event) => {
        if (event.detail) root.focus()      // by a pointer: the next key is for the image, and not for this button
        onclick()
      },
    }, make("kbd", {}, key), make("span", {}, text))
  }

  const by = (key) => () => pressed(key)

  function controls(off) {
    const of = item(), now = decision()
    const is = (label) => of && of.index !== null && (now === null ? of.given === label : now === label)
    const disabled = off || !of || of.index === null
    const labels = classes.slice(0, KEYS).map((name, number) =>
      button(String(number + 1), name, by(String(number + 1)), { disabled, pressed: is(number) }))
    if (classes.length > KEYS) {
      const chosen = classes.findIndex((_, number) => number >= KEYS && is(number))
      labels.push(button("0", chosen < 0 ? "Another class …" : `${classes[chosen]} …`, by("0"), { disabled, pressed: chosen >= 0 }))
    }
    return [
      make("div", { class: "labels", role: "group", "aria-label": "Set its label" }, ...labels),
      make("div", { class: "actions", role: "group", "aria-label": "What else" },
        button("k", "Keep its label", by("k"), { disabled }),
        of && of.model !== null && of.model !== of.given
          ? button("a", `As the model: ${classes[of.model]}`, by("a"), { disabled }) : null,
        button("x", "Leave it out", by("x"), { disabled, pressed: now === "excluded" }),
        button("Space", "Tick", by(" "), { disabled, pressed: ticked.has(here.at), shortcut: "Space", title: "Into the selection of images to leave out, that all pages share" }),
        button("u", "Undo", by("u"), { disabled: off || (!data.can_undo && !here.actions.length) }),
        button("p", "Back", by("p"), { disabled: here.at === 0 }),
        button("n", "Next", by("n"), { disabled: here.at === data.count - 1 && looked.has(here.at) }),
        button("?", "Keys", by("?"), { pressed: !!here.keys })),
    ]
  }

  function facts(of) {
    const row = ([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))
    const share = ([name, value, figure]) => {
      const mark = make("span", { class: "bar" })
      mark.style.width = `${100 * value}%`
      return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track" }, mark), make("td", { class: "figure" }, figure))
    }
    return make("div", { class: "facts" },
      make("p", { class: "reason" }, of.reason),
      make("p", { class: `verdict ${verdict()[0]}` }, verdict()[1]),
      make("table", {}, make("tbody", {}, ...of.lines.map(row))),
      of.shares.length ? make("h3", {}, "The model's probabilities") : null,
      of.shares.length ? make("table", { class: "shares" }, make("tbody", {}, ...of.shares.map(share))) : null,
      of.link ? make("a", { href: of.link, target: "_self" }, "What this image did to the targets") : null)
  }

  // How it was decided on, as a class of the style sheet and in words.
  function verdict() {
    const of = item(), now = decision()
    const is = ticked.has(here.at) ? " · ticked" : ""
    if (of.index === null) return ["given", "Not in the data set: a corrected copy of the folder leaves it out."]
    if (now === "excluded") return ["changed", `Left out${is}`]
    if (now !== null) return ["changed", `${classes[of.given]} → ${classes[now]}${is}`]
    return ["given", `${classes[of.given]}, as given${looked.has(here.at) ? ", looked at" : ""}${is}`]
  }

  const picture = ({ src, alt }) => make("img", { src, alt, title: alt })

  function groups(of) {
    return of.groups.map(([title, images]) =>
      make("figure", {}, make("figcaption", {}, title), make("div", { class: "alike" }, ...images.map(picture))))
  }

  const HELP = [
    [`1 to ${Math.min(KEYS, classes.length)}`, "set this label, and go on; the label given: it is right"],
    ...(classes.length > KEYS ? [["0", "choose among all classes: type a part of the name, ↑ ↓, Enter"]] : []),
    ["k", "keep the label given, and go on"], ["a", "take the model's label, and go on"],
    ["x", "leave the image out, and go on; again: take that back"],
    ["space", "tick it, for the selection of images to leave out that all pages share"],
    ["u", "undo the last thing that was done, and so on to the first, also after a reload"],
    ["n →", "go on; the image was looked at"], ["p ←", "go back"], ["?", "show or hide these keys"],
  ]

  const help = () => make("dl", { class: "help" }, ...HELP.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]))

  function draw() {
    const of = item(), off = !data.acting
    const done = [...looked].length
    root.querySelector(".head").replaceChildren(
      make("h2", {}, of ? of.title : `${here.at + 1}`),
      make("span", { class: "count" }, `${here.at + 1} of ${data.count} · ${done} of ${data.count} looked at`))
    const meter = root.querySelector("progress")
    meter.max = data.count
    meter.value = done
    root.querySelector(".body").replaceChildren(...(of ? [image(of), facts(of)] : [make("p", {}, "Reading the image …")]))
    const focused = root.querySelector(".controls").contains(active()) ? active().getAttribute("aria-keyshortcuts") : null
    root.querySelector(".controls").replaceChildren(...controls(off))
    if (focused) (root.querySelector(`[aria-keyshortcuts="${focused}"]:enabled`) ?? root).focus()
    root.querySelector(".alikes").replaceChildren(...(of ? groups(of) : []))
    root.querySelector(".keys").replaceChildren(...(here.keys ? [help()] : []))
    drawChooser()
    say(of)
  }

  const active = () => root.getRootNode().activeElement

  function image(of) {
    if (!of.src) return make("div", { class: "picture none" }, of.detail)
    const drawn = make("img", { class: data.smooth ? "smooth" : "", src: of.src, alt: of.alt, width: data.enlarged })
    return make("div", { class: "picture" }, drawn)
  }

  // For screen readers: where one is, and what has just been said.
  function say(of) {
    const text = here.said || (of ? `${here.at + 1} of ${data.count}: ${of.title}, ${verdict()[1]}` : "")
    const status = root.querySelector("[role=status]")
    if (status.textContent !== text) status.textContent = text
    status.classList.toggle("told", !!here.said)
  }

  // -- all classes, by a part of their names

  function matches() {
    const text = here.choosing.text.trim().toLowerCase()
    return classes.map((name, number) => [name, number]).filter(([name]) => name.toLowerCase().includes(text)).slice(0, OPTIONS)
  }

  function drawChooser() {
    const place = root.querySelector(".chooser")
    if (!here.choosing) {
      if (place.firstChild) place.replaceChildren()
      return
    }
    const list = make("ul", { role: "listbox", "aria-label": "Classes", id: "classes" })
    const field = make("input", {
      type: "text", role: "combobox", value: here.choosing.text, autocomplete: "off", "aria-label": "A part of the class's name",
      "aria-expanded": "true", "aria-controls": "classes", oninput: () => { Object.assign(here.choosing, { text: field.value, at: 0 }); fill() },
    })
    function fill() {
      const found = matches()
      here.choosing.at = Math.max(0, Math.min(here.choosing.at, found.length - 1))
      list.replaceChildren(...found.map(([name, number], row) => make("li", {
        role: "option", id: `class-${number}`, "aria-selected": String(row === here.choosing.at), onclick: () => choose(number),
      }, name)))
      const selected = list.children[here.choosing.at]
      selected ? field.setAttribute("aria-activedescendant", selected.id) : field.removeAttribute("aria-activedescendant")
      selected?.scrollIntoView({ block: "nearest" })
      if (!found.length) list.replaceChildren(make("li", { role: "option", "aria-disabled": "true" }, "No class has this in its name."))
    }
    function choose(number) {
      close()
      here.said = ""
      decide(number)
      draw()
      askForMore()
    }
    function close() {
      here.choosing = null
      place.replaceChildren()
      root.focus()
    }
    field.onkeydown = (event) => {
      event.stopPropagation()
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
      if (step) { here.choosing.at += step; fill() }
      else if (event.key === "Enter" && matches().length) choose(matches()[here.choosing.at][1])
      else if (event.key === "Escape") close()
      else return
      event.preventDefault()
    }
    place.replaceChildren(make("label", {}, "Which class? ", field), list, button("Esc", "Close", close))
    fill()
    field.focus()
  }

  // -- once for each answer of the server

  draw()
  for (const key of here.waiting.splice(0)) press(key)
  if (here.focused === undefined) {
    here.focused = true
    if (document.activeElement === document.body) root.focus({ preventScroll: true })
  }
  draw()
  if (here.actions.some((action) => action.id > here.upTo)) send()
  else askForMore()

  if (!here.listening) {
    here.listening = true
    const listen = (event) => {
      if (root.isConnected) return here.onkey(event)
      here.listening = false
      document.removeEventListener("keydown", listen, true)
    }
    document.addEventListener("keydown", listen, true)
  }
}
