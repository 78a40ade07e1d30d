"""``python -m copra_lab.cli``."""

from copra_lab.cli import main

main()
