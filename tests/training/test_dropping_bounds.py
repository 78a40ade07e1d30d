"""Where each setting of CopRA and its baselines ends."""

import pytest

from copra_lab.training.dropping import CopRA, Dropout, ProgressiveDropout, StochasticDepth


@pytest.mark.parametrize("kind", [Dropout, ProgressiveDropout])
def test_a_rate_of_one_would_drop_everything(kind):
    assert kind(0.0).rate == 0
    for bad in (1.0, 1, -0.1):
        with pytest.raises(ValueError, match="rate must be at least 0 and below 1"):
            kind(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: CopRA(start=x),
        lambda x: CopRA(ramp=x),
        lambda x: ProgressiveDropout(ramp=x),
        lambda x: StochasticDepth(x),
    ],
)
def test_shares_may_be_zero_and_one(make):
    for good in (0, 1):
        make(good)
    for bad in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and at most 1"):
            make(bad)
