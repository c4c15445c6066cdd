// Copies the page's address, as the browser has it, and says so.
//
// data: {label, copied, failed}

export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button")
  const label = button.querySelector("span")
  const status = parentElement.querySelector("[role=status]")

  button.onclick = async () => {
    const copied = await copy(location.href, parentElement)
    label.textContent = copied ? `✓ ${data.copied}` : data.label
    status.textContent = copied ? data.copied : data.failed
    parentElement.querySelector("input")?.remove()
    if (!copied) offer(parentElement, location.href, data.failed)
    clearTimeout(button.waiting)
    button.waiting = setTimeout(() => {
      label.textContent = data.label
      status.textContent = ""
    }, 3000)
  }
}

// Where the page was not served safely (http, and not from this machine) browsers have no clipboard; the older way works.
async function copy(text, parent) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const before = parent.activeElement ?? document.activeElement
    const field = document.createElement("textarea")
    field.value = text
    field.style.cssText = "position: fixed; opacity: 0"
    document.body.append(field)
    field.select()
    const copied = document.execCommand("copy")
    field.remove()
    before?.focus()
    return copied
  }
}

// Where neither works: the address itself, selected.
function offer(parent, text, label) {
  const field = document.createElement("input")
  field.value = text
  field.readOnly = true
  field.setAttribute("aria-label", label)
  parent.querySelector("button").after(field)
  field.focus()
  field.select()
}
