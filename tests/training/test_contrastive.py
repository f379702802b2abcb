"""CLIP's loss of embeddings of pictures and captions, and how often they find each other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data import Batch
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.models.layers.text import Text
from score_sde.training.contrastive import Contrastive, contrastive_losses, retrieval

FLOAT = torch.float64


def sphere(count: int, size: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=FLOAT), dim=1)


def test_the_loss_is_known_where_embeddings_are_orthogonal():
    """Cosines are 1 on the diagonal and 0 elsewhere: `log(1 + (B - 1) exp(-s))` for each; `log B` where all are one."""
    scale = torch.tensor(3.0, dtype=FLOAT)
    expected = torch.full((5,), math.log1p(4 * math.exp(-3)), dtype=FLOAT)
    torch.testing.assert_close(
        contrastive_losses(torch.eye(5, 7, dtype=FLOAT), torch.eye(5, 7, dtype=FLOAT), scale), expected
    )
    same = torch.eye(1, 7, dtype=FLOAT).expand(5, 7)
    torch.testing.assert_close(contrastive_losses(same, same, scale), torch.full((5,), math.log(5), dtype=FLOAT))


def test_the_loss_and_its_gradient_are_the_mean_of_two_cross_entropies():
    scale = torch.tensor(9.0, dtype=FLOAT, requires_grad=True)
    pictures, captions = (sphere(6, 4, seed).requires_grad_() for seed in (0, 1))
    losses, own = contrastive_losses(pictures, captions, scale), torch.arange(6)
    logits = scale * pictures @ captions.T
    expected = (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2
    torch.testing.assert_close(losses, expected)
    weights = torch.linspace(1, 2, 6, dtype=FLOAT)
    inputs = (pictures, captions, scale)
    here, there = (
        torch.autograd.grad((weights * each).sum(), inputs, retain_graph=True) for each in (losses, expected)
    )
    torch.testing.assert_close(here, there)
    assert torch.autograd.gradcheck(contrastive_losses, inputs)


def made() -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding((8, 8), 1, Text(12, 3), 5, channels=4, channel_multipliers=(1, 2)).double()


def batch(count: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(2, 12, (count, 3), generator=generator)
    return Batch(torch.randn(count, 1, 8, 8, generator=generator, dtype=FLOAT), Condition({"caption": words}))


def test_embeddings_have_norm_one_and_the_scale_a_limit():
    model, some = made(), batch(6)
    assert some.condition is not None
    for embedded in (model.pictures(some.x_0), model.captions(some.condition.values["caption"])):
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(6, dtype=FLOAT))
        assert embedded.shape == (6, model.size)
    torch.testing.assert_close(model.scale.item(), 1 / 0.07, rtol=1e-6, atol=0)
    with torch.no_grad():
        model.log_scale.fill_(10.0)
    torch.testing.assert_close(model.scale.item(), 100.0)


def test_the_objective_is_that_loss_and_does_not_depend_on_the_order():
    model, some = made(), batch(6)
    losses = Contrastive()(model, some).values
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert some.condition is not None
    turned = Batch(some.x_0[order], some.condition[order])
    torch.testing.assert_close(Contrastive()(model, turned).values, losses[order])
    losses.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_eight_pictures_learn_to_find_their_captions():
    model, some = made(), batch(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = Contrastive()(model, some).values.mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert retrieval(some.x_0, some.condition)(model) == {"captions_found": 1.0, "pictures_found": 1.0}


def test_few_digits_are_not_for_logits():
    """Under autocast the losses of embeddings in float32 stay what they are."""
    pictures, captions = (sphere(6, 4, seed).float() for seed in (0, 1))
    scale = torch.tensor(100.0)
    plain = contrastive_losses(pictures, captions, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_losses(pictures, captions, scale), plain)
        assert made().float().pictures(batch(2).x_0.float()).dtype == torch.float32


def test_retrieval_counts_what_is_found():
    """Of three pictures, one embedded as its own caption, two as each other's."""

    class Known(torch.nn.Linear):
        def pictures(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)[[0, 2, 1]]

        def captions(self, words: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)

    found = retrieval(torch.zeros(3, 1, 2, 2), Condition({"caption": torch.zeros(3, 1)}))(Known(1, 1))  # type: ignore[arg-type]
    assert found == {"captions_found": 1 / 3, "pictures_found": 1 / 3}
    with pytest.raises(UserError, match="needs captions, which these data have not"):
        retrieval(torch.zeros(3, 1, 2, 2), None)
    with pytest.raises(UserError, match="needs captions"):
        Contrastive()(made(), Batch(torch.zeros(3, 1, 8, 8)))
