"""TIES and DARE held against peft's, on the same numbers.

peft merges tensor by tensor, so the adapters here have one site unless a test is about that.
"""

import pytest
import torch
from peft.utils import merge_utils as theirs
from tiny import random_adapter, tiny_clip

from copra_lab.adapters import Adapter, from_delta
from copra_lab.merging import dare, task_arithmetic, ties, weighted_sum
from copra_lab.models import hf_name
from copra_lab.pruning import sparsify

SITE, OTHER = hf_name("vision", 0, "q"), hf_name("vision", 1, "q")


def deltas(n=3, shape=(8, 10), seed=0) -> list[torch.Tensor]:
    return list(torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)))


def adapters(tensors, site=SITE) -> list[Adapter]:
    return [Adapter({site: from_delta(t)}) for t in tensors]


def merged(adapter, site=SITE) -> torch.Tensor:
    return adapter.deltas[site].delta()


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_ties_on_one_matrix_is_pefts(n, scale, density):
    x = deltas(n)
    torch.testing.assert_close(
        merged(ties(adapters(x), density, scale)),
        theirs.ties(x, torch.full((n,), scale), density, "total"),
    )


def test_ties_trims_the_whole_adapter_and_peft_each_matrix():
    """The paper keeps the largest entries of the whole task vector; peft the same share everywhere."""
    big, small = deltas(2, seed=1), [0.01 * x for x in deltas(2, seed=2)]
    both = [
        Adapter({SITE: from_delta(b), OTHER: from_delta(s)})
        for b, s in zip(big, small, strict=True)
    ]
    ours = ties(both, 0.25)
    by_matrix = {
        s: theirs.ties(x, torch.ones(2), 0.25, "total") for s, x in ((SITE, big), (OTHER, small))
    }
    assert not merged(ours, OTHER).any() and by_matrix[OTHER].any()
    together = [torch.cat([b.flatten(), s.flatten()]) for b, s in zip(big, small, strict=True)]
    whole = theirs.ties(together, torch.ones(2), 0.25, "total")
    torch.testing.assert_close(merged(ours).flatten(), whole[: big[0].numel()])


def test_the_number_of_entries_kept_is_rounded_here_and_cut_off_in_peft():
    x = torch.arange(1.0, 11.0).reshape(2, 5)
    ours = merged(ties(adapters([x]), 0.28))  # 2.8 of ten entries
    assert int((ours != 0).sum()) == 3
    assert int((theirs.ties([x], torch.ones(1), 0.28) != 0).sum()) == 2


def test_the_sign_is_elected_by_total_and_not_by_majority():
    """The paper's sign is that of the sum; peft's other method counts heads."""
    x = [torch.tensor([[4.0, 1.0]]), torch.tensor([[-1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])]
    ours = merged(ties(adapters(x), 1.0))
    with pytest.warns(UserWarning, match="no pruning"):
        by_total, by_count = (theirs.ties(x, torch.ones(3), 1.0, m) for m in ("total", "frequency"))
    assert ours.tolist() == by_total.tolist() == [[4.0, 1.0]]
    assert by_count.tolist() == [[-1.0, 1.0]]


def test_entries_that_cancel_vanish_here_and_count_as_positive_in_peft():
    x = [torch.tensor([[2.0, 1.0]]), torch.tensor([[-2.0, 1.0]])]
    assert merged(ties(adapters(x), 1.0)).tolist() == [[0.0, 1.0]]
    with pytest.warns(UserWarning, match="no pruning"):
        assert theirs.ties(x, torch.ones(2), 1.0).tolist() == [[2.0, 1.0]]


@pytest.fixture
def same_draws(monkeypatch):
    """peft drops by the global generator: let it draw what `dare` draws from its own."""
    g = torch.Generator().manual_seed(7)
    monkeypatch.setattr(
        theirs.torch, "bernoulli", lambda p: (torch.rand(p.shape, generator=g) >= 1 - p).float()
    )
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_dare_and_a_weighted_sum_is_pefts_dare_linear(same_draws, rate):
    x, weights = deltas(), [0.5, 0.2, -1.0]
    ours = weighted_sum([dare(a, rate, same_draws) for a in adapters(x)], weights)
    torch.testing.assert_close(
        merged(ours), theirs.dare_linear(x, torch.tensor(weights), 1 - rate), atol=1e-5, rtol=1e-5
    )


def test_dare_and_then_ties_of_all_entries_is_pefts_dare_ties(same_draws):
    x = deltas()
    ours = ties([dare(a, 0.5, same_draws) for a in adapters(x)], density=1.0, scale=0.4)
    torch.testing.assert_close(merged(ours), theirs.dare_ties(x, torch.full((3,), 0.4), 0.5))


def test_sums_and_pruned_sums_are_pefts():
    clip = tiny_clip()
    a, b = random_adapter(clip, seed=1), random_adapter(clip, seed=2, scale=0.2)
    total = task_arithmetic([a, b], 0.3)
    pruned = weighted_sum([sparsify(x, 0.75, "delta", "site") for x in (a, b)], [0.3, 0.3])
    for name in a.deltas:
        x = [merged(y, name) for y in (a, b)]
        expected = theirs.task_arithmetic(x, torch.full((2,), 0.3))
        torch.testing.assert_close(merged(total, name), expected, atol=1e-6, rtol=1e-5)
        expected = theirs.magnitude_prune(x, torch.full((2,), 0.3), 0.25)
        torch.testing.assert_close(merged(pruned, name), expected, atol=1e-6, rtol=1e-5)
