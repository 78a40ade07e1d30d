"""Numbers as the page says them."""

from decimal import ROUND_HALF_UP, Decimal

from copra_lab.utils.statistics import Accuracy


def percent(share: float) -> str:
    """0.625 → ``62.5 %`` with a space that does not break."""
    return f"{100 * share:.1f}\u202f%"


def interval(accuracy: Accuracy) -> str:
    """The 95 % interval of an accuracy, in percent: ``58.1 to 66.7``."""
    low, high = accuracy.interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def signed(number: float, digits: int = 2) -> str:
    """A number with a true minus sign, rounded as browsers do.

    Halves go away from zero, so that 0.125 is 0.13 here and in a field beside it.
    """
    return f"{Decimal(number).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}".replace(
        "-", "−"
    )


def gained(number: float, digits: int) -> str:
    """A difference: as `signed`, with a plus sign if it is above zero once it is rounded."""
    return ("+" if round(number, digits) > 0 else "") + signed(number, digits)
