"""Controls that redraw a picture, for notebooks. Needs ipywidgets, from the extra ``lessons``."""

import html
from collections.abc import Callable
from typing import Any

from copra_lab.plots import Picture
from copra_lab.utils.extras import needs

with needs("lessons"):
    from ipywidgets import HTML, HBox, Layout, ValueWidget, VBox


class Live(VBox):
    """Controls above a picture that is redrawn whenever a value changes.

    A ValueError is shown instead of the picture. Without a kernel, for instance on a web page,
    only the picture is shown.

    Args:
        draw: Makes the picture; takes the controls' values as keyword arguments.
        controls: Argument of `draw` → its control.
    """

    def __init__(self, draw: Callable[..., Picture], controls: dict[str, ValueWidget]) -> None:
        self._draw, self._controls = draw, controls
        self._frame = HTML()
        self._picture: Picture | None = None
        rows = [HBox(list(controls.values()), layout=Layout(flex_flow="row wrap")), self._frame]
        super().__init__(rows)
        for control in controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, _: Any = None) -> None:
        try:
            values = {name: control.value for name, control in self._controls.items()}
            self._picture = picture = self._draw(**values)
            self._frame.value = picture.html
        except ValueError as e:
            self._frame.value = f"<p role='alert'>{html.escape(str(e))}</p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if data is None or self._picture is None:
            return bundle
        still, about = self._picture._repr_mimebundle_()
        return {**data, **still}, {**metadata, **about}


def live(draw: Callable[..., Picture], **controls: ValueWidget) -> Live:
    """Show ``draw(size=…)`` with its controls, as in ``live(draw, size=IntSlider())``.

    Args:
        draw: Makes the picture; takes the controls' values as keyword arguments.
        **controls: Argument of `draw` → its control.
    """
    return Live(draw, controls)
