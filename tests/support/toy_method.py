"""A method that a reader might add: LoRA whose deltas count half."""

from dataclasses import dataclass

from copra_lab.methods import LoRA


@dataclass(frozen=True)
class HalfLoRA(LoRA):
    """LoRA with half of its scale.

    Args:
        share: What the scale is multiplied by.
    """

    share: float = 0.5

    @property
    def scale(self) -> float:
        """The factor of B·A."""
        return self.share * super().scale
