"""The page's views: each has a tab and an address; only the open one asks for numbers.

``static/tabs.js`` shows the view that the address names, or the first, and presses the button that
tells the server so. The tabs are links, so that they can be opened elsewhere, and all views stay in
the document, so that nothing that the server sends is lost: reasons not to use gr.Tabs. The address
follows what the server says is its link, once no other came for a moment: browsers allow so many
changes of it a second.

A tab shows its view as it was left. An address sets all controls of its view and its number in one
answer, so every handler that sends the visitor elsewhere, or sets several controls, gives one (see
`going`). Back and Forward show a view as it was left, too, as long as its controls are as they were
then; else as the address says.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from copra_lab.page.components.panels import html
from copra_lab.page.components.templates import render
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Asked


class Entrance(NamedTuple):
    """How a view is entered.

    ``opened``: the event of its being shown. Handlers that listen to it take ``request`` as their
    last inputs, with the JavaScript of `leaves`: what the address asks for when the view opens (""
    at all other times, see `copra_lab.page.state.address.read`), and the number of the request (see
    `Requests.take`). They give the view's address to ``link``, and to ``refused`` what of one could
    not be used. What they give to ``go`` (see `going`) is opened at once, in this view or another
    one.
    """

    name: str
    opened: Callable[..., Any]
    request: list[Any]
    link: gr.Textbox
    refused: gr.HTML
    go: gr.Textbox

    def leaves(self, controls: Sequence[Any]) -> str:
        """JavaScript for a request whose first inputs are these `controls`."""
        return (
            f"(...x) => copra.sends('{self.name}', {json.dumps([c.elem_id for c in controls])}, x)"
        )

    def asked(self, of: Mapping[str, Any], number: object) -> Asked:
        """A request of this view by its number, and what the controls say once it is answered."""
        return Asked(of, number, f"view-{self.name}")


def going(query: str) -> str:
    """An address as `Entrance.go` takes it: one that is given twice is opened twice."""
    return f"{query}#{time.monotonic_ns()}"


def refusal(refused: Sequence[str]) -> str:
    """What of an address could not be used, as HTML; it may hold pieces of the address."""
    return render("refused", sentences=refused) if refused else ""


class View(NamedTuple):
    """`name` is its address, ``?view=name``. `fill(lab, session, entrance)` lays it out."""

    name: str
    tab: str
    title: str
    lead: str
    fill: Callable[[Lab, gr.State, Entrance], None]


def header(views: tuple[View, ...], beside: str = "") -> None:
    """The tabs, and what stands `beside` them, as HTML."""
    html(render("header", views=views, beside=Markup(beside)), elem_id="header")


def gate() -> gr.Textbox:
    """What `Entrance.go` is, one for all views."""
    go = gr.Textbox(visible="hidden", elem_id="go")
    go.change(None, go, None, js="to => { if (to) copra.go(to.split('#')[0]); }")
    return go


def add(view: View, lab: Lab, session: gr.State, go: gr.Textbox) -> None:
    """Add `view` to the page that is being built; `go`: its `gate`."""
    with gr.Column(elem_id=f"view-{view.name}", elem_classes="view"):
        html(render("title", view=view), elem_classes="title")
        refused = html("", elem_id=f"refused-{view.name}")
        opened = gr.Button("Open", visible="hidden", elem_id=f"open-{view.name}")
        link = gr.Textbox(visible="hidden", elem_id=f"link-{view.name}")
        link.change(None, link, None, js=f"to => copra.link('{view.name}', to)")
        request = [gr.Textbox(visible=False), gr.Number(visible=False)]
        view.fill(lab, session, Entrance(view.name, opened.click, request, link, refused, go))
