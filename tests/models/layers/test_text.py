"""Words that are heard as tokens and as a vector: against the layers written out, and what must not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models import DiT, UNet
from score_sde.models.layers.condition import heard_kinds
from score_sde.models.layers.text import Bridge, EmbeddedText, Text, TextEncoder, Texts

TEXT = Text(7, 4)


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TEXT, 16).double().eval()


def test_an_encoder_is_attention_and_a_perceptron_with_what_went_in_added(encoder):
    """The first layer by hand, of a text without gaps."""
    numbers = torch.tensor([[2, 3, 4, 5]])
    x = encoder.words.weight[numbers] + encoder.places
    for layer in encoder.layers.layers:
        h = layer.norm1(x)
        q, k, v = (
            part.unflatten(-1, (4, 4)).transpose(1, 2)
            for part in layer.self_attn.in_proj_weight.matmul(h.transpose(1, 2))
            .transpose(1, 2)
            .add(layer.self_attn.in_proj_bias)
            .chunk(3, -1)
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1) @ v
        x = x + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
        x = x + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(x))))
    tokens, vector = encoder(numbers)
    torch.testing.assert_close(tokens, encoder.norm(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vector, encoder.norm(x).mean(1), rtol=1e-12, atol=1e-12)


def test_what_is_not_there_changes_nothing(encoder):
    """A short text is the same beside a long one, and its tokens are zero where it has no words."""
    short, long = torch.tensor([[2, 3, 0, 0]]), torch.tensor([[2, 3, 4, 5]])
    tokens, vector = encoder(torch.cat([short, long]))
    alone, own = encoder(short)
    torch.testing.assert_close(tokens[:1], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vector[:1], own, rtol=1e-12, atol=1e-12)
    assert not tokens[0, 2:].any()
    torch.testing.assert_close(own, tokens[:1, :2].mean(1), rtol=1e-12, atol=1e-12)
    # Without any word there is one that says nothing: finite numbers.
    assert encoder(torch.zeros(1, 4, dtype=torch.long))[1].isfinite().all()


def test_hidden_texts_stay_hidden():
    told = Condition({"caption": torch.tensor([[2, 3, 0, 0]] * 2), "class": torch.tensor([0, 1])})
    hidden = told.hidden("caption", torch.tensor([True, False]))
    heard = Texts({"caption": TEXT})(hidden)
    assert heard is not None
    assert list(heard.values) == ["caption", "class", "caption_whole"]
    assert heard.hidden_rows["caption"].tolist() == heard.hidden_rows["caption_whole"].tolist() == [True, False]


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_networks_hear_words_and_nothing_of_what_is_hidden(network):
    torch.manual_seed(0)
    kinds = {"caption": TEXT}
    made: UNet | DiT
    if network == "unet":
        made = UNet(1, channels=8, channel_multipliers=(1, 2), num_blocks=1, conditions=kinds)
    else:
        made = DiT(size=(8, 8), in_channels=1, width=16, num_blocks=1, num_heads=2, conditions=kinds)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made.eval()
    x, label = torch.randn(3, 1, 8, 8), torch.zeros(3)
    words = Condition({"caption": torch.tensor([[2, 3, 0, 0], [2, 4, 0, 0], [2, 3, 0, 0]])})
    x = x[:1].expand(3, -1, -1, -1)
    out = made(x, label, words)
    torch.testing.assert_close(out[0], out[2])
    assert (out[0] - out[1]).abs().max() > 1e-3
    other = Condition({"caption": torch.tensor([[5, 6, 1, 1]] * 3)})
    torch.testing.assert_close(made(x, label, words.hidden("caption")), made(x, label, other.hidden("caption")))
    torch.testing.assert_close(made(x, label, words.hidden("caption")), made(x, label, None))
    with pytest.raises(UserError, match=r"must be \(4,\) words, by their numbers"):
        made(x, label, Condition({"caption": torch.zeros(3, 5, dtype=torch.long)}))


def test_a_text_is_heard_by_tokens_and_a_vector():
    assert [type(kind).__name__ for kind in heard_kinds({"caption": TEXT, "class": 3}).values()] == [
        "Tokens",
        "Vector",
        "int",
    ]


def test_rows_of_a_frozen_encoder_are_normalised_and_brought_to_a_width():
    """A vector and tokens by their maps, written out; zero rows are no tokens, and hidden texts are not heard."""
    torch.manual_seed(0)
    bridge = Bridge(EmbeddedText(3, 6), 5).double()
    rows = torch.randn(2, 4, 6, dtype=torch.float64)
    rows[0, 2:] = 0
    tokens, vector = bridge(rows)

    def heard(part: Any, row: torch.Tensor) -> torch.Tensor:
        norm, linear = part.children()
        normal = (row - row.mean(-1, keepdim=True)) / (row.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return normal @ linear.weight.T + linear.bias

    torch.testing.assert_close(vector, heard(bridge.whole, rows[:, 0]), rtol=1e-12, atol=1e-12)
    wanted = heard(bridge.tokens, rows[:, 1:])
    wanted[0, 1:] = 0
    torch.testing.assert_close(tokens, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_networks_hear_rows_of_a_frozen_encoder(network):
    kinds = {"caption": EmbeddedText(3, 6)}
    torch.manual_seed(0)
    made: UNet | DiT
    if network == "unet":
        made = UNet(1, channels=8, channel_multipliers=(1, 2), num_blocks=1, conditions=kinds).double()
    else:
        made = DiT(size=(8, 8), in_channels=1, width=16, num_blocks=1, num_heads=2, conditions=kinds).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.eval()
    x, label, rows = torch.randn(2, 1, 8, 8).double(), torch.zeros(2).double(), torch.randn(2, 4, 6)
    told = Condition({"caption": rows})
    assert (made(x, label, told) - made(x, label, Condition({"caption": rows.flip(0)}))).norm() > 1e-2
    # Tokens have no order, but the vector is apart from them.
    turned = Condition({"caption": rows[:, [0, 2, 3, 1]]})
    torch.testing.assert_close(made(x, label, told), made(x, label, turned), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(made(x, label, told.hidden("caption")), made(x, label, None))
    with pytest.raises(UserError, match=r"'caption' must be \(4, 6\) real numbers"):
        made(x, label, Condition({"caption": rows[:, 1:]}))
