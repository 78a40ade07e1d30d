() => {
  // What every control of the page says now, by its id, and when each part of the page was last asked for anew.
  const says = {}, since = {};
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const fresh = piece => {
    const {of, at, part} = piece.dataset;
    return !(Number(at) < since[part]) && Object.entries(JSON.parse(of)).every(([id, value]) => same(says[id], value));
  };
  const mark = () => {
    for (const piece of document.querySelectorAll('.of')) {
      const stale = !fresh(piece);
      piece.classList.toggle('stale', stale);
      piece.setAttribute('aria-busy', stale);
    }
  };
  // A piece that the server sends is held against the controls before it is painted.
  new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});
  globalThis.copra = {
    says: (ids, values) => {
      ids.forEach((id, i) => { says[id] = values[i]; });
      mark();
    },
    asks: part => {
      since[part] = performance.now();
      mark();
    },
    within: element => Object.fromEntries(Object.entries(says).filter(([id]) => element.querySelector('#' + CSS.escape(id)))),
  };
}
