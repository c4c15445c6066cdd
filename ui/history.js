// One entry of the browser's history for each thing that a person did, so that «back» leads to what they saw.
//
// Streamlit adds an entry each time a page writes its address: also for what a page only completes when it is opened,
// and once for each of the steps in which one click changes it. Where the browser is busy, it even writes what the page
// behind a link is asked under the address of the page before, and then the right one. Here the first write after a click
// or a key adds an entry, and the others replace it; so does one after which nobody did anything: the page was opened, or
// gone back to.
(() => {
  let acted = false  // somebody did something, and no entry tells of it
  let added = false  // the entry that is shown tells of what was done last
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { acted = true; added = false }, true)
  addEventListener("popstate", () => { acted = added = false }, true)
  const push = history.pushState.bind(history)
  history.pushState = (state, unused, url) => {
    const elsewhere = new URL(url, location.href).pathname !== location.pathname
    if (acted || (elsewhere && !added)) {
      push(state, unused, url)
      added = true
    } else history.replaceState(state, unused, url)
    acted = false
  }
})()
