"""The architectures that conversion knows; a model from scratch is written as the first that has its features."""

from fm9g.convert.families import llama, minicpm, mistral, mixtral, qwen, qwen3, qwen_moe

FAMILIES = (
    llama.FAMILY,
    minicpm.FAMILY,
    minicpm.FM9G,
    qwen.FAMILY,
    qwen3.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    qwen_moe.QWEN2,
    qwen_moe.QWEN3,
)
