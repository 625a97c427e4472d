"""The architectures that conversion knows; a model from scratch is written as the first that has its features."""

from fm9g.convert.families import bloom, gemma, glm, llama, minicpm, mistral, mixtral, phi3, qwen, qwen3, qwen_moe

FAMILIES = (
    qwen.FAMILY,
    llama.FAMILY,
    minicpm.FAMILY,
    minicpm.FM9G,
    qwen3.FAMILY,
    mistral.FAMILY,
    phi3.FAMILY,
    glm.FAMILY,
    glm.GLM4,
    gemma.FAMILY,
    gemma.GEMMA2,
    bloom.FAMILY,
    mixtral.FAMILY,
    qwen_moe.QWEN2,
    qwen_moe.QWEN3,
)
