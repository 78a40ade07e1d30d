() => {
  // What every control of the page says now, by its id, and when each part of the page was last asked for anew.
  const says = {}, since = {}, moves = {}, left = {}, tried = {};
  const count = id => { moves[id] = (moves[id] ?? 0) + 1; };
  const outOfDate = ({at, part}) => Number(at) < since[part];
  const fresh = ({of, at, part}) =>
    !outOfDate({at, part}) && Object.entries(JSON.parse(of)).every(([id, value]) => JSON.stringify(says[id]) === JSON.stringify(value));
  // All that was asked for is answered, and yet a number is of other controls, which an answer set on its way: ask once for them as they are.
  const again = piece => {
    const view = document.getElementById(piece.dataset.part), ids = Object.keys(JSON.parse(piece.dataset.of)), now = JSON.stringify(ids.map(id => says[id]));
    if (!piece.isConnected || !view?.hasAttribute('data-open') || tried[view.id] === now || ids.some(id => says[id] === undefined)) return;
    if (fresh(piece.dataset) || outOfDate(piece.dataset) || !(Number(piece.dataset.at) >= left[view.id])) return;
    tried[view.id] = now;
    document.getElementById(view.id.replace('view-', 'open-')).click();
  };
  const mark = () => {
    for (const piece of document.querySelectorAll('.of')) {
      const {at, part} = piece.dataset, stale = !fresh(piece.dataset);
      if (!stale) delete tried[part];
      else if (!piece.classList.contains('stale')) setTimeout(again, 800, piece);
      piece.classList.toggle('stale', stale);
      piece.setAttribute('aria-busy', stale);
      if (Number(at) >= since[part]) delete document.getElementById(part).dataset.opening;  // its address was answered
    }
  };
  // A piece that the server sends is held against the controls before it is painted.
  new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});

  // Gradio tells a moment later what a control says that somebody moves: until then, nobody knows. What is typed into a menu is no choice yet.
  const counts = {
    input: e => e.target.role !== 'listbox',
    mousedown: e => e.target.closest?.('[role=option], button'),
    keydown: e => e.target.role === 'listbox' && e.key === 'Enter',
  };
  const atRest = globalThis.requestIdleCallback ?? requestAnimationFrame;  // Safari has no idle callbacks
  const moved = e => {
    if (!counts[e.type](e)) return;
    let control = e.target;
    while (control && !(control.id in says)) control = control.parentElement;
    if (!control || says[control.id] === undefined) return;
    count(control.closest('.view')?.id);
    const {id} = control, before = says[id];
    says[id] = undefined;
    mark();
    // It was not moved after all, if Gradio told nothing by now and has nothing left to do: a machine that is short of time is late with it.
    const restore = () => { if (says[id] === undefined) { says[id] = before; mark(); } };
    setTimeout(() => atRest(() => atRest(restore)), 300);
  };
  for (const event in counts) document.addEventListener(event, moved, true);

  globalThis.copra = {
    says: (ids, values) => {
      ids.forEach((id, i) => { says[id] = values[i]; });
      mark();
    },
    asks: part => {
      since[part] = performance.now();
      count(part);
      mark();
    },
    leaves: (part, number) => { left[part] = number; },  // a request of that part and its number
    moves: part => moves[part] ?? 0,  // how often it was asked for anew, or one of its controls was moved
  };
}
