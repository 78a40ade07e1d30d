() => {
  const links = [...document.querySelectorAll('#header nav a')], views = [...document.querySelectorAll('.view')];
  const shown = () => views.find(v => v.hasAttribute('data-open'));
  const named = query => Math.max(0, links.findIndex(a => a.dataset.view === new URLSearchParams(query).get('view')));
  const address = query => {
    const to = new URL(location), theme = to.searchParams.get('__theme');
    to.search = query + (theme ? '&__theme=' + encodeURIComponent(theme) : '');
    return to;
  };
  const left = view => view.id + ' ' + copra.moves(view.id), kept = {};  // how each step of the history was left, and with what link
  const keep = () => { kept[step] = [left(shown()), shown().dataset.link]; };
  let later, step = performance.timeOrigin;
  history.replaceState({step}, '');
  const follow = () => {  // what was asked for and not answered yet stays in the address
    clearTimeout(later);
    const {link, asked} = shown().dataset, to = link && !asked && address(link);
    if (to && to.href !== location.href) history.replaceState(history.state, '', to);
  };
  const open = (at, query) => {  // at the address `query`, or without one as it was left
    clearTimeout(later);
    const view = views[at];
    links.forEach((a, i) => i === at ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current'));
    views.forEach((v, i) => v.toggleAttribute('data-open', i === at));
    document.title = 'copra-lab: ' + links[at].title;
    if (query) {
      view.dataset.asked = view.dataset.opening = query;
      copra.asks(view.id);
    } else view.dataset.asked ||= view.dataset.opening || '?';  // an address that was not answered yet is asked for again
    document.getElementById('open-' + links[at].dataset.view).click();
  };
  const leave = to => {  // for another view: a step that Back undoes
    follow();
    keep();
    if (to.href === location.href) return;
    step = performance.timeOrigin + performance.now();
    history.pushState({step}, '', to);
  };
  views.forEach(v => v.addEventListener('link', () => { clearTimeout(later); later = setTimeout(follow, 300); }));
  links.forEach((a, i) => a.addEventListener('click', e => {
    if (e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    leave(address(views[i].dataset.link || a.search));
    open(i);
  }));
  copra.link = (name, to) => {  // what the server says is the view's link
    const view = document.getElementById('view-' + name);
    view.dataset.link = to;
    view.dispatchEvent(new Event('link'));
  };
  // The inputs of a request as it leaves: the values of the controls with these ids come first; the last two are what the address
  // asks for, if it was not answered yet, and the request's number.
  copra.sends = (name, ids, x) => {
    const view = document.getElementById('view-' + name);
    copra.says(ids, x);
    x[x.length - 2] = view.dataset.asked || '';
    delete view.dataset.asked;
    x[x.length - 1] = performance.now();
    copra.leaves(view.id, x[x.length - 1]);
    return x;
  };
  copra.go = query => {  // what the page itself sends the visitor to
    const at = named(query);
    if (views[at] !== shown()) leave(address(query));
    open(at, query);
  };
  copra.show = name => {  // leaves no trail to go back through
    const at = named('?view=' + name), to = address(views[at].dataset.link || links[at].search);
    follow();
    if (to.href !== location.href) history.replaceState(history.state, '', to);
    open(at);
  };
  addEventListener('popstate', e => {
    keep();
    step = e.state?.step ?? performance.timeOrigin + performance.now();
    const at = named(location.search), [was, link] = kept[step] ?? [];
    open(at, was === left(views[at]) ? '' : link || location.search || links[at].search);
  });
  open(named(location.search), location.search);

  const button = document.getElementById('link-copy'), words = button.textContent;
  button.addEventListener('click', () => {
    follow();
    copra.copy(location.href);
    button.focus();
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = words; }, 1500);
  });
}
