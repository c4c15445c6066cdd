// Asks that the page be drawn again once the run that it shows has changed; not while that would take something away from
// a person, though: text that was typed and not yet taken, an open list, dialog or image. Meanwhile a button offers it.
//
// data: {changed, label}; `changed` is the state that the page does not show yet, "" where it shows what is so. Sends the
// trigger "show", once for each state: another one would draw the page again at some later time, under what is typed then.

const OPEN = '[role="dialog"], [role="listbox"], [data-testid="stPopoverBody"]'
const WRITTEN = "input:not([type=checkbox], [type=radio], [type=range], [type=file]), textarea, [contenteditable]"
let typed = null                  // the field in which something was typed that was not yet taken
const WAITING = new WeakMap()     // of each place, its timer
const ASKED = new WeakMap()       // of each place, the state that it asked for last

const field = (event) => event.composedPath()[0]
addEventListener("input", (event) => { if (field(event).matches(WRITTEN)) typed = field(event) }, true)
addEventListener("focusout", (event) => { if (field(event) === typed) typed = null }, true)
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey || typed?.tagName !== "TEXTAREA")) typed = null
}, true)

const busy = () =>
  !!typed?.isConnected || !!document.querySelector(OPEN) || !!document.activeElement?.shadowRoot?.querySelector("dialog[open]")

export default function ({ data, parentElement, setTriggerValue }) {
  const button = parentElement.querySelector("button")
  clearInterval(WAITING.get(parentElement))
  button.textContent = data.label
  button.hidden = true
  if (!data.changed || ASKED.get(parentElement) === data.changed) return

  const show = () => {
    clearInterval(WAITING.get(parentElement))
    button.hidden = true
    ASKED.set(parentElement, data.changed)
    setTriggerValue("show", true)
  }
  const look = () => {
    if (busy()) button.hidden = false
    else show()
  }
  button.onclick = show
  WAITING.set(parentElement, setInterval(look, 500))
  look()
  return () => clearInterval(WAITING.get(parentElement))
}
