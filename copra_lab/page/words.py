"""Numbers as the page says them."""


def percent(share: float) -> str:
    """0.625 → ``62.5 %`` with a space that does not break."""
    return f"{100 * share:.1f}\u202f%"


def signed(number: float, digits: int = 2) -> str:
    """A number with a true minus sign."""
    return f"{number:.{digits}f}".replace("-", "−")
