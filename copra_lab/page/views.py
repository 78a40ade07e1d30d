"""The page's views: each has a tab and an address of its own, and only the one that is open asks for numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.page.lab import Lab
from copra_lab.page.parts import html

OPEN = """() => {
  const links = [...document.querySelectorAll('#header nav a')], views = [...document.querySelectorAll('.view')];
  const open = () => {
    const asked = new URLSearchParams(location.search).get('view');
    const at = Math.max(0, links.findIndex(a => a.dataset.view === asked));
    links.forEach((a, i) => i === at ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current'));
    views.forEach((v, i) => v.toggleAttribute('data-open', i === at));
    document.title = 'copra-lab: ' + links[at].title;
    document.getElementById('open-' + links[at].dataset.view).click();
  };
  links.forEach(a => a.addEventListener('click', e => {
    if (e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    const to = new URL(location);
    to.searchParams.set('view', a.dataset.view);
    if (to.href !== location.href) history.pushState(null, '', to);
    open();
  }));
  addEventListener('popstate', open);
  open();
}"""
"""Shows the view that the address names, or the first, and presses the button that tells the server so. The tabs are
links, so that they can be opened elsewhere, and all views stay in the document, so that nothing that the server sends is
lost: reasons not to use gr.Tabs."""


class View(NamedTuple):
    """`name` is its address, ``?view=name``. `fill(lab, session, opened)` lays it out; `opened` is the event of its being
    shown, to which it binds what it does first."""

    name: str
    tab: str
    title: str
    lead: str
    fill: Callable[[Lab, gr.State, Callable[..., Any]], None]


def header(views: tuple[View, ...], beside: str = "") -> None:
    """The tabs, and what stands `beside` them, as HTML."""
    links = "".join(f'<a href="?view={v.name}" data-view="{v.name}" title="{v.title}">{v.tab}</a>' for v in views)
    html(f'<header><p class="brand">copra-lab</p><nav aria-label="Views">{links}</nav>{beside}</header>', elem_id="header")


def add(view: View, lab: Lab, session: gr.State) -> None:
    """Add `view` to the page that is being built."""
    with gr.Column(elem_id=f"view-{view.name}", elem_classes="view"):
        html(f'<h1>{view.title}</h1><p class="lead">{view.lead}</p>', elem_classes="title")
        opened = gr.Button("Open", visible="hidden", elem_id=f"open-{view.name}")
        view.fill(lab, session, opened.click)
