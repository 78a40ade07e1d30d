"""The page: views over the same functions that the lessons use. Needs gradio."""

import os

# Read when gradio is imported: nothing is called elsewhere.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Read when torch is imported: threads that wait for each other must not keep the cores busy that
# a number waits for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from copra_lab.utils.extras import needs

with needs("app"):
    from copra_lab.page.app import VIEWS, build, launch, model_line

__all__ = ["VIEWS", "build", "launch", "model_line"]
