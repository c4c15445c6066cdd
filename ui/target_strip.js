// A strip of targets, one of which is chosen: by a click, or by the arrow keys and Enter or Space.
//
// data: {label, chosen, side, targets: [{name, title, words, images, right}]}
// Sends the trigger "chosen", the name of a target.

const SHOWN = new WeakMap()      // of each strip, what is drawn in it

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip")
  if (!SHOWN.has(strip)) SHOWN.set(strip, {})
  const shown = SHOWN.get(strip)

  function item(target) {
    const judged = target.right === null ? "" : target.right ? ", right" : ", wrong"
    const pictures = make("div", { class: target.images.length > 1 ? "pictures several" : "pictures", "aria-hidden": "true" },
      ...target.images.map((src) => make("img", { src, alt: "" })))
    const element = make("li", { role: "option", title: target.title, "aria-label": `${target.title}${judged}`, "data-name": target.name },
      pictures, make("div", { class: "words", "aria-hidden": "true" }, target.words))
    if (target.right !== null)
      element.append(make("span", { class: `mark ${target.right ? "right" : "wrong"}`, "aria-hidden": "true" }, target.right ? "✓" : "✗"))
    return element
  }

  // One tab stop: the target that has the focus, or had it last, and the one chosen before that.
  function rest(at) {
    for (const one of strip.children) one.tabIndex = one === at ? 0 : -1
  }

  function choose(element) {
    mark(element.dataset.name)       // at once; the page follows
    if (element.dataset.name !== data.chosen) setTriggerValue("chosen", element.dataset.name)
  }

  function mark(name) {
    for (const one of strip.children) one.setAttribute("aria-selected", String(one.dataset.name === name))
  }

  strip.onclick = (event) => {
    const element = event.target.closest("li")
    if (!element) return
    rest(element)
    choose(element)
  }
  strip.onkeydown = (event) => {
    const at = event.target.closest("li")
    if (!at) return
    const to = { ArrowLeft: at.previousElementSibling, ArrowRight: at.nextElementSibling, Home: strip.firstElementChild, End: strip.lastElementChild }
    if (event.key in to) {
      rest(to[event.key] ?? at)
      ;(to[event.key] ?? at).focus()
    } else if (event.key === "Enter" || event.key === " ") choose(at)
    else return
    event.preventDefault()
    event.stopPropagation()          // Streamlit has keys of its own
  }

  const content = JSON.stringify([data.side, data.targets])
  if (content !== shown.content) {
    shown.content = content
    strip.style.setProperty("--side", `${data.side}px`)
    strip.replaceChildren(...data.targets.map(item))
  }
  strip.setAttribute("aria-label", data.label)
  mark(data.chosen)
  if (shown.chosen !== data.chosen || !strip.querySelector('[tabindex="0"]')) {
    shown.chosen = data.chosen
    const chosen = [...strip.children].find((one) => one.dataset.name === data.chosen) ?? strip.firstElementChild
    if (!chosen) return
    rest(chosen)
    const [left, right] = [chosen.offsetLeft - strip.offsetLeft, chosen.offsetLeft - strip.offsetLeft + chosen.offsetWidth]
    // Sideways alone: the page stays where it is.
    if (left < strip.scrollLeft || right > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = left - strip.clientWidth / 3
  }
}
