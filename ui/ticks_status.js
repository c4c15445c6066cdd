// What is ticked, in words. The element stays while its text changes: so screen readers say it.
export default function ({ data, parentElement }) {
  const status = parentElement.querySelector("[role=status]")
  if (status.textContent !== data.text) status.textContent = data.text
}
