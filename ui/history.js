// One entry of the browser's history for each thing that a person did, so that «back» leads to what they saw.
//
// Streamlit adds an entry each time a page writes its address: also for what a page only completes when it is opened,
// and once for each of the steps in which one click changes it. Here the first write after a click or a key adds an
// entry, and the others replace it; so does one after which nobody did anything: the page was opened, or gone back to.
(() => {
  let acted = false
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { acted = true }, true)
  addEventListener("popstate", () => { acted = false }, true)
  const push = history.pushState.bind(history)
  history.pushState = (state, unused, url) => {
    if (acted || new URL(url, location.href).pathname !== location.pathname) push(state, unused, url)
    else history.replaceState(state, unused, url)
    acted = false
  }
})()
