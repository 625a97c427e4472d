"""The decoder: a LLaMA-like language model on BMTrain, with MiniCPM's muP scaling."""

from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.model.packed import Packed

__all__ = ["Decoder", "ModelConfig", "Packed"]
