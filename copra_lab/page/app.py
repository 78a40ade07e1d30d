"""The page put together: its views, its endpoints, and the server that shows them."""

from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup
from starlette.middleware import Middleware

from copra_lab.page.api import endpoints
from copra_lab.page.components import tour
from copra_lab.page.components.panels import html
from copra_lab.page.components.scripts import STATIC, on_load
from copra_lab.page.components.tabs import add, gate, header
from copra_lab.page.components.templates import render
from copra_lab.page.components.theme import THEME
from copra_lab.page.server import gradio_sessions, limits
from copra_lab.page.server.fair_queue import fair
from copra_lab.page.server.guard import Guard
from copra_lab.page.server.visitors import Visitors
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Session
from copra_lab.page.views.blend import view as blend
from copra_lab.page.views.classify import view as classify
from copra_lab.page.views.prompt import view as prompt
from copra_lab.page.views.prune import view as prune
from copra_lab.page.views.shapley import view as shapley
from copra_lab.page.views.train import view as train
from copra_lab.page.views.triangle import view as triangle

TITLE = "copra-lab: fine-tuned CLIPs to take apart and blend"

VIEWS = tuple(v.VIEW for v in (blend, triangle, prune, shapley, prompt, train, classify))


def build(lab: Lab = Lab()) -> gr.Blocks:  # noqa: B008 (frozen)
    """The page over `lab`. Nothing is loaded or drawn until a visitor comes.

    Raises ValueError if the lab has no adapter to show.
    """
    if not lab.tasks():
        raise ValueError("there is no adapter to show; make some with recipes/adapters.py")
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(limits.FILE_LOOKS, limits.FILE_SECONDS)
    ) as page:
        header(VIEWS, tour.html(tour.STEPS))
        session, go = gr.State(Session()), gate()
        for view in VIEWS:
            add(view, lab, session, go)
        footer = html(render("footer", model=Markup("&nbsp;")), elem_id="footer")
        page.load(None, js=on_load())
        page.load(
            lambda: render("footer", model=model_line(lab)),
            None,
            footer,
            show_progress="hidden",
            api_visibility="private",
        )
        endpoints.serve(lab)
    return page.queue(max_size=limits.QUEUE)


def model_line(lab: Lab) -> Markup:
    """What the page says of its model, as HTML."""
    clip = lab.clip
    return Markup(render("model", name=clip.name, layers=clip.layers, hash=clip.hash))


def launch(page: gr.Blocks, **options: Any) -> Any:
    """`gr.Blocks.launch` with the page's look and its limits. Does not block.

    It leaves out what would contact other hosts.
    """
    gradio_sessions.bound()
    visitors = Visitors(partial(gradio_sessions.forget, page))
    fair(page, visitors)
    return page.launch(
        theme=THEME,
        css_paths=STATIC / "page.css",
        footer_links=[],
        share=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        state_session_capacity=2 * limits.SESSIONS,
        max_file_size=f"{limits.UPLOAD_MB}mb",
        quiet=True,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(Guard, visitors=visitors)]},
        **options,
    )
