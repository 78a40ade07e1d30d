"""What users read first, README.md and the pages beside ``docs/``, and the blocks of code in it
that tests run.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    "README": README.split("---\n", 2)[2],
    **{p.stem: p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md"))},
}
TEXT = "\n".join(PAGES.values())
BLOCK = re.compile(r"(?:<!-- tested: (\w+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
CODE = {name: code for name, _, code in BLOCK.findall(TEXT)}
