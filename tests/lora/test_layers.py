"""Which layers get adapters, by whatever names."""

from __future__ import annotations

import pytest

from fm9g.errors import UserError
from fm9g.lora.layers import adapter_parameters, check_named, layers_of, matching, saved_modules, whole_modules
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig

SHAPE = {"vocab_size": 61, "dim_model": 32, "num_heads": 4, "num_kv_heads": 2, "num_layers": 3, "dim_ff": 48}
CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
ATTENTION = "self_att.self_attention."
PROJECTIONS = [f"{ATTENTION}project_{name}" for name in "qkv"]
FEED_FORWARD = ["ffn.ffn.w_in.w_0", "ffn.ffn.w_in.w_1", "ffn.ffn.w_out"]
EVERY = [*PROJECTIONS, f"{ATTENTION}attention_out", *FEED_FORWARD]


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (["project_q"], PROJECTIONS[:1]),
        (["project_v", "project_q"], [PROJECTIONS[0], PROJECTIONS[2]]),
        (["w_in.w_0"], FEED_FORWARD[:1]),
        (["self_attention.project_k"], PROJECTIONS[1:2]),
        (["[r]project_[qv]"], [PROJECTIONS[0], PROJECTIONS[2]]),
        (["[r]ffn\\..*"], FEED_FORWARD),
        (["all"], EVERY),
    ],
)
def test_a_name_is_the_end_of_a_layers(layers, found):
    assert matching(CONFIG, layers) == found


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (["project_q", "proj_k"], "'proj_k' is no linear layer of a block.*'project_k'.*; there are self_att"),
        (["q"], "'q' is no linear layer"),
        (["layernorm_before_ffn"], "is no linear layer"),
        (["lm_head"], "'lm_head' is no linear layer"),
        (["[r]project_["], "is no regular expression"),
        ([""], "'' is no linear layer"),
    ],
)
def test_a_name_that_means_nothing_is_refused(layers, says):
    with pytest.raises(UserError, match=f"lora_layer: .*{says}"):
        matching(CONFIG, layers)


def test_names_of_hugging_face():
    assert layers_of(["q_proj", "gate_proj", "W_pack"]) == ("project_q", "w_0", "project_k", "project_v")
    assert layers_of(["all-linear"]) == ("all",)
    with pytest.raises(UserError, match=r"lora_target_modules: unknown 'c_fc'.*known: q_proj"):
        layers_of(["c_fc"])


def test_a_feed_forward_without_a_gate_has_two_layers():
    ungated = ModelConfig(**SHAPE, ffn_gated=False)  # type: ignore[arg-type]
    without = [name for name in EVERY if not name.endswith("w_1")]
    assert matching(ungated, ["all"]) == without
    usual = LoraSettings(lora=True).layers_in(ungated)
    assert matching(ungated, usual) == [name for name in without if not name.endswith("attention_out")]
    of_bloom = layers_of(["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"])
    assert matching(ungated, of_bloom) == without
    assert matching(CONFIG, of_bloom) == EVERY


def test_modules_to_save():
    assert saved_modules(["embed_tokens", "lm_head"]) == ("input_embedding.weight", "lm_head.weight")
    with pytest.raises(UserError, match=r"modules_to_save: unknown 'lm_heads'.*'lm_head'"):
        saved_modules(["lm_heads"])
    with pytest.raises(UserError, match="lm_head is tied to the embedding"):
        whole_modules(ModelConfig(**SHAPE, tie_lm_head=True), ["lm_head"])  # type: ignore[arg-type]


def test_tensors_have_the_shapes_of_their_layers():
    table = adapter_parameters(CONFIG, ["project_k", "w_out"], 4, dora=True)
    assert len(table) == 3 * 2 * 3
    assert [(p.name.partition(".lora.")[2], p.shape) for p in table[:6]] == [
        ("lora_A", (4, 32)),
        ("lora_B", (16, 4)),
        ("magnitude", (16,)),
        ("lora_A", (4, 48)),
        ("lora_B", (32, 4)),
        ("magnitude", (32,)),
    ]


def test_a_train_config_of_other_layers_than_a_files_is_told():
    """Of a file that was moved away from what its run says of it, the layers alone can tell."""
    both = ("project_q", "project_k")
    held = [f"encoder.layers.{i}.self_att.self_attention.{name}" for i in range(2) for name in both]
    for named in (["project_q", "project_k"], ["all"], ["[r]project_[qk]"]):
        check_named(held, named, "a.pt")
    with pytest.raises(UserError, match=r"a.pt: has an adapter for .*0.*project_k, and lora_layer says project_q"):
        check_named(held, ["project_q"], "a.pt")
    with pytest.raises(UserError, match=r"a.pt: has no adapter for w_0, and lora_layer says project_q, project_k, w_0"):
        check_named(held, ["project_q", "project_k", "w_0"], "a.pt")


EXPERTS = {"num_experts": 4, "experts_per_token": 2}
MIXTURE = ModelConfig(**SHAPE, **EXPERTS)  # type: ignore[arg-type]
SHARED = ModelConfig(**SHAPE, **EXPERTS, dim_shared_expert=24)  # type: ignore[arg-type]


def test_of_experts_attention_alone_gets_adapters_where_nobody_says():
    assert matching(MIXTURE, LoraSettings().layers_in(MIXTURE)) == PROJECTIONS
    assert matching(CONFIG, LoraSettings().layers_in(CONFIG)) == [*PROJECTIONS, *FEED_FORWARD]
    named = LoraSettings(lora_target_modules=["gate_proj"])
    assert named.layers_in(MIXTURE) == named.layers_in(CONFIG) == ("w_0",)


@pytest.mark.parametrize("layer", ["w_0", "experts.w_out", "router", "[r].*experts.*"])
def test_experts_and_routers_are_refused_by_name(layer):
    for config in (MIXTURE, SHARED):
        with pytest.raises(UserError, match=r"'.*' is ffn\.ffn\..* here, and a router and its experts get no adapters"):
            matching(config, ["project_q", layer])


def test_all_layers_are_those_that_can_have_adapters():
    assert matching(MIXTURE, ["all"]) == EVERY[:4]
    shared = [f"ffn.ffn.shared_expert.{name}" for name in ("w_in.w_0", "w_in.w_1", "w_out")]
    assert matching(SHARED, ["all"]) == [*EVERY[:4], *shared, "ffn.ffn.shared_expert_gate"]
    assert matching(SHARED, ["shared_expert.w_out"]) == shared[2:]
