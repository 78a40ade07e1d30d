"""The page's views: each has a tab and an address of its own, and only the one that is open asks for numbers."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.page.lab import Lab
from copra_lab.page.parts import COPY, html

OPEN = """() => {
  const links = [...document.querySelectorAll('#header nav a')], views = [...document.querySelectorAll('.view')];
  const shown = () => views.find(v => v.hasAttribute('data-open'));
  const address = query => {
    const to = new URL(location), theme = to.searchParams.get('__theme');
    to.search = query + (theme ? '&__theme=' + encodeURIComponent(theme) : '');
    return to;
  };
  let later;
  const follow = () => {  // what was asked for and not answered yet stays in the address
    clearTimeout(later);
    const {link, asked} = shown().dataset, to = link && !asked && address(link);
    if (to && to.href !== location.href) history.replaceState(history.state, '', to);
  };
  const open = asked => {
    clearTimeout(later);
    const name = new URLSearchParams(asked).get('view');
    const at = Math.max(0, links.findIndex(a => a.dataset.view === name));
    links.forEach((a, i) => i === at ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current'));
    views.forEach((v, i) => v.toggleAttribute('data-open', i === at));
    document.title = 'copra-lab: ' + links[at].title;
    views[at].dataset.asked = asked || '?';
    document.getElementById('open-' + links[at].dataset.view).click();
  };
  views.forEach(v => v.addEventListener('link', () => { clearTimeout(later); later = setTimeout(follow, REST); }));
  links.forEach((a, i) => a.addEventListener('click', e => {
    if (e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    follow();
    const to = address(views[i].dataset.link || a.search);
    if (to.href !== location.href) history.pushState(null, '', to);
    open(a.search);  // as it was left
  }));
  addEventListener('popstate', () => open(location.search));
  open(location.search);

  const button = document.getElementById('link-copy'), words = button.textContent;
  button.addEventListener('click', () => {
    follow();
    COPY(location.href);
    button.focus();
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = words; }, 1500);
  });
}""".replace("REST", "300").replace("COPY", COPY)
"""Shows the view that the address names, or the first, and presses the button that tells the server so. The tabs are
links, so that they can be opened elsewhere, and all views stay in the document, so that nothing that the server sends is
lost: reasons not to use gr.Tabs. The address follows what the server says is its link, once no other came for a moment: browsers
allow so many changes of it a second."""

SHARE = '<button type="button" id="link-copy" title="Copy the address of what you see here" aria-live="polite">Copy link</button>'

_SAID = """to => {
  const view = document.getElementById('view-VIEW');
  view.dataset.link = to;
  view.dispatchEvent(new Event('link'));
}"""

_LEAVES = """(...x) => {
  const view = document.getElementById('view-VIEW');
  x[x.length - 2] = view.dataset.asked || '';
  delete view.dataset.asked;
  x[x.length - 1] = performance.now();
  return x;
}"""


class Entrance(NamedTuple):
    """How a view is entered. ``opened``: the event of its being shown. Handlers that listen to it take ``request`` as their last inputs,
    with ``js``: what the address asks for when the view opens ("" at all other times, see `copra_lab.page.link.read`), and the number of
    the request (see `Requests.take`). They give the view's address to ``link``, and to ``refused`` what of one could not be had."""

    name: str
    opened: Callable[..., Any]
    request: list[Any]
    js: str
    link: gr.Textbox
    refused: gr.HTML


def refusal(refused: Sequence[str]) -> str:
    """What of an address could not be had, as HTML; it may hold pieces of the address."""
    if not refused:
        return ""
    return f'<p class="refused" role="status">This link asks for what is not to be had, and in its place stands what is usual: {escape("; ".join(refused))}.</p>'


class View(NamedTuple):
    """`name` is its address, ``?view=name``. `fill(lab, session, entrance)` lays it out."""

    name: str
    tab: str
    title: str
    lead: str
    fill: Callable[[Lab, gr.State, Entrance], None]


def header(views: tuple[View, ...], beside: str = "") -> None:
    """The tabs, and what stands `beside` them, as HTML."""
    links = "".join(f'<a href="?view={v.name}" data-view="{v.name}" title="{v.title}">{v.tab}</a>' for v in views)
    html(f'<header><p class="brand">copra-lab</p><nav aria-label="Views">{links}</nav>{SHARE}{beside}</header>', elem_id="header")


def add(view: View, lab: Lab, session: gr.State) -> None:
    """Add `view` to the page that is being built."""
    with gr.Column(elem_id=f"view-{view.name}", elem_classes="view"):
        html(f'<h1>{view.title}</h1><p class="lead">{view.lead}</p>', elem_classes="title")
        refused = html("", elem_id=f"refused-{view.name}")
        opened = gr.Button("Open", visible="hidden", elem_id=f"open-{view.name}")
        link = gr.Textbox(visible="hidden", elem_id=f"link-{view.name}")
        link.change(None, link, None, js=_SAID.replace("VIEW", view.name))
        request = [gr.Textbox(visible=False), gr.Number(visible=False)]
        view.fill(lab, session, Entrance(view.name, opened.click, request, _LEAVES.replace("VIEW", view.name), link, refused))
