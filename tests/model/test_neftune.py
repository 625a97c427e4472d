"""NEFTune: noise on embeddings, of each document's own size, in training alone."""

from __future__ import annotations

import math

import pytest
import torch

from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.model.embedding import noise
from fm9g.runtime import bmt

pytestmark = pytest.mark.usefixtures("single_rank")
CONFIG = ModelConfig(vocab_size=61, dim_model=32, num_heads=4, num_layers=1, dim_ff=48, init_std=0.1, dtype="float32")
LENGTHS = (50, 200, 2)


@pytest.fixture
def model():
    """A decoder whose embeddings get noise in training."""
    made = Decoder(CONFIG, neft_alpha=5.0)
    bmt.init_parameters(made)
    return made


def test_noise_is_uniform_up_to_alpha_over_the_root_of_a_documents_tokens_and_width(model):
    torch.manual_seed(0)
    found = noise(torch.zeros(252, 32), model.context(LENGTHS), 5.0)
    for length, part in zip(LENGTHS, found.split(LENGTHS), strict=True):
        limit = 5.0 / math.sqrt(length * 32)
        assert part.abs().max() <= limit
        if length > 2:
            assert part.abs().max() > 0.99 * limit
            assert part.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)  # of a uniform distribution
            assert abs(part.mean().item()) < 0.05 * limit


def test_it_is_there_in_training_alone(model):
    tokens, plain = torch.arange(20), Decoder(CONFIG)
    plain.load_state_dict(model.state_dict())
    context = model.context([20])
    with torch.no_grad():
        assert not torch.equal(model(tokens, context), model(tokens, context))
        model.eval()
        assert torch.equal(model(tokens, context), plain(tokens, context))
