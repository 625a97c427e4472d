"""The architectures that conversion knows; a model from scratch is written as the first that has its features."""

from fm9g.convert.families import llama, minicpm, mistral, qwen, qwen3

FAMILIES = (
    llama.FAMILY,
    minicpm.FAMILY,
    minicpm.FM9G,
    qwen.FAMILY,
    qwen3.FAMILY,
    mistral.FAMILY,
)
