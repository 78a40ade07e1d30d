"""The page's theme: system fonts and few colours. The rest is page.css.

Gradio's own themes bring or fetch web fonts.
"""

import gradio as gr

THEME = gr.themes.Base(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=["system-ui", "sans-serif"],  # page.css says it again, without the quotes that gradio adds
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="#0e1420",
    body_text_color_subdued="*neutral_500",  # the usual one is too pale on white to be read by all
    slider_color="#0067a8",
    slider_color_dark="#5db4ee",  # page.css's --a
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    body_text_color="*neutral_900",
    body_text_color_dark="*neutral_100",
    background_fill_primary_dark="#161e2d",
    background_fill_secondary_dark="#0e1420",
    border_color_primary_dark="#2c384d",
    block_background_fill_dark="#161e2d",
    input_background_fill_dark="#161e2d",
)
