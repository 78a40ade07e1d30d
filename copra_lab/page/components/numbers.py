"""Numbers as the page says them."""

from decimal import ROUND_HALF_UP, Decimal


def percent(share: float) -> str:
    """0.625 → ``62.5 %`` with a space that does not break."""
    return f"{100 * share:.1f}\u202f%"


def signed(number: float, digits: int = 2) -> str:
    """A number with a true minus sign, rounded as browsers do.

    Halves go away from zero, so that 0.125 is 0.13 here and in a field beside it.
    """
    return f"{Decimal(number).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}".replace(
        "-", "−"
    )
