() => {
  const one = id => document.getElementById(id);
  const tour = one('tour'), invitation = one('tour-invitation'), ring = tour.querySelector('.ring'), card = tour.querySelector('.step');
  const back = tour.querySelector('[data-tour=back]'), next = tour.querySelector('[data-tour=next]'), seen = 'copra-lab-tour';
  const asked = new URLSearchParams(location.search).get('tour');
  const known = () => { try { return localStorage.getItem(seen); } catch { return null; } };
  const remember = () => { invitation.hidden = true; try { localStorage.setItem(seen, 'yes'); } catch { /* asked again next time */ } };
  let steps = [], at = 0, from = '';

  const place = () => {
    const box = one(steps[at].at).getBoundingClientRect(), edge = 6;
    Object.assign(ring.style, {left: box.left - edge + 'px', top: box.top - edge + 'px', width: box.width + 2 * edge + 'px', height: box.height + 2 * edge + 'px'});
    const {offsetWidth: width, offsetHeight: height} = card, room = 16;
    const below = box.bottom + room + height < innerHeight, above = box.top - room - height > 0;
    const top = below ? box.bottom + room : above ? box.top - room - height : innerHeight - height - room;
    card.style.top = Math.max(room, top) + 'px';
    card.style.left = Math.max(room, Math.min(box.left, innerWidth - width - room)) + 'px';
  };
  const show = to => {
    at = Math.max(0, Math.min(to, steps.length - 1));
    const step = steps[at];
    copra.show(step.view);
    one('tour-title').textContent = step.title;
    one('tour-words').textContent = step.words;
    one('tour-at').textContent = `${at + 1} of ${steps.length}`;
    back.disabled = at === 0;
    next.textContent = at === steps.length - 1 ? 'Done' : 'Next';
    const target = one(step.at), fits = target.offsetHeight < innerHeight / 2;
    target.scrollIntoView({block: fits ? 'center' : 'start'});
    if (!fits) scrollBy(0, -20);
    place();
  };
  const start = () => {
    const address = new URL(location);
    address.searchParams.delete('tour');  // done once
    history.replaceState(history.state, '', address);
    steps = JSON.parse(tour.dataset.steps).filter(s => one(s.at) && one('view-' + s.view));
    remember();
    from = document.querySelector('#header nav a[aria-current]').dataset.view;
    tour.showModal();
    show(0);
    follow();
    next.focus();
  };
  const follow = () => {  // in every frame: what a view draws late moves its controls, and nothing says so
    if (!tour.open) return;
    place();
    requestAnimationFrame(follow);
  };
  const moves = {
    start, never: remember, close: () => tour.close(), back: () => show(at - 1),
    next: () => at === steps.length - 1 ? tour.close() : show(at + 1),
  };
  [tour, invitation].forEach(e => e.addEventListener('click', e => moves[e.target.dataset.tour]?.()));
  one('tour-open').addEventListener('click', start);
  tour.addEventListener('close', () => {
    copra.show(from);
    one('tour-open').focus();  // what opened it may have been the invitation, which is gone
  });
  addEventListener('keydown', e => {  // between the last button and the first, Tab stops at none of them
    if (!tour.open) return;
    if (e.key === 'ArrowRight' && at < steps.length - 1) show(at + 1);
    else if (e.key === 'ArrowLeft') show(at - 1);
    else return;
    e.preventDefault();
  });

  if (asked === '1') start();
  else if (asked !== '0' && !navigator.webdriver && !known()) invitation.hidden = false;
}
