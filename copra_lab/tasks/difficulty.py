"""How hard the bundled tasks are: every number that makes one easier or harder, by name.

They are chosen on training and validation images alone; ``recipes/difficulty.py`` prints what each
candidate does and holds the rule of choice. Lengths are shares of the picture's side.
"""

BLUR = 0.02
"""Deviation of the blur of `things-blur`."""

MOSAIC = (10, 12)
"""Squares a side of `things-mosaic`, fewest and most."""

SHADOW = 0.3
"""Share of their own colours that the shapes of `things-shadows` keep."""

SKETCH = 0.3
"""Share of their own colours that the drawings of `things-sketch` keep."""

SOLARISED = 0.5
"""Brightness above which `travel-solarised` is inverted."""

NOISE = (0.1, 0.25)
"""Least and largest deviation of the noise of `faces-noise`."""

DEAD = 0.05
"""Share of dead pixels of `faces-noise`."""

HIDDEN = 0.16
"""Share of the picture that `people-occluded` covers."""

HIDDEN_AGAIN = 0.15
"""The same of `same-drawings-occluded`."""

WAVES = (0.14, 0.22)
"""Least and largest swing of `symbols-waves`, where half the side is 1."""

CROP = 0.85
"""Least share of the area that training crops keep of a structured picture.

The usual half would cut off what the label is about.
"""

WHERE = (0.18, 0.26)
"""Least and largest size of the drawing of `where`."""

SIZES = 1.55
"""Each size of `size` is this many times the one before; the largest fills the picture."""

TILT = 8.0
"""Degrees that a drawing of `turn` is turned more or less than its label says, at most."""

SAME = (0.3, 0.42)
"""Least and largest size of the two drawings of `same-or-different`."""

ODD = (0.36, 0.42)
"""Least and largest size of the four drawings of `odd-one-out`."""

LARGEST = 1.45
"""The largest of four is this many times the others in `largest`."""

BESIDE = (0.26, 0.36)
"""Least and largest size of the drawing beside the dot of `beside`."""

HANDS = 0.6
"""Length of the hour hand of `clock`, as a share of the minute hand's."""
