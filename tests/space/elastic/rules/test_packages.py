"""Networks of timm and Hugging Face become elastic by rule. These packages are not needed otherwise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import SearchSpace, make_searchable, widths
from advnas_lightning.space.elastic.rules import fit_config
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES

Make = Callable[..., Any]
HALF = [0.5, 1.0]


def of_timm(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    net: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return net


TIMM_STAGES = {"depths": (2, 2, 2, 2), "dims": (8, 8, 16, 16), "ls_init_value": 0.5}
TIMM_VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 3, "num_heads": 2, "head_init_scale": 50.0}


def small_vit(**options: Any) -> nn.Module:
    return of_timm("deit_tiny_patch16_224", img_size=32, embed_dim=8, depth=3, num_heads=2, **options)


class OfTensors(nn.Module):
    """A network of Hugging Face as a plain function of its input. A decoder gets the same few tokens in all rows."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.given = net, net.main_input_name
        self.is_video = hasattr(net.config, "num_frames")

    def forward(self, x: Tensor) -> Tensor:
        decoded = {"decoder_input_ids": torch.arange(3, 8).expand(len(x), -1)}
        is_decoding = self.net.config.is_encoder_decoder and self.net.can_generate()
        found: Tensor = self.net(**{self.given: x}, **(decoded if is_decoding else {}))[0]
        return found if found.dim() == 2 else found[:, -1]


TOKENS = {"vocab_size": 20, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PIXELS = {"image_size": 32, "patch_size": 16}
FFNS = {
    "GPT2": "n_inner",
    "T5": "d_ff",
    "MT5": "d_ff",
    "DistilBert": "hidden_dim",
    "OPT": "ffn_dim",
}  # what configs call the width
BART = {  # whose config has sizes for the encoder and for the decoder
    **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 3), ("ffn_dim", 16))},
    **{"d_model": 8, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1},
}


SOUND = {
    **{"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False, "layerdrop": 0.0},
}


EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 2},
    **{"shared_expert_intermediate_size": 16, "experts_implementation": "eager"},
}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "num_heads": [2, 4], "window_size": 4, "mlp_ratio": 2.0}
STAGES: dict[str, dict[str, Any]] = {
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "Segformer": {
        **{"num_encoder_blocks": 2, "sr_ratios": [2, 1], "hidden_sizes": [4, 8], "patch_sizes": [3, 3]},
        **{"strides": [4, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2], "decoder_hidden_size": 8},
    },
    "ConvNext": {"hidden_sizes": [4, 8], "num_stages": 2, "layer_scale_init_value": 0.5},
}


def of_transformers(kind: str, head: str, **options: Any) -> nn.Module:
    """A tiny network with random weights."""
    transformers = pytest.importorskip("transformers")
    own: dict[str, Any] = {"num_labels": CLASSES, "use_cache": False}
    if not options.keys() & {"d_model", "depths"}:
        own |= {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4}
        own |= {FFNS.get(kind, "intermediate_size"): 16}
    own |= {"d_kv": 2, "num_decoder_layers": 3, "decoder_start_token_id": 0} if kind.endswith("T5") else {}
    if "depths" not in options:
        images = kind.startswith(("ViT", "DeiT", "Dino", "DINO", "Beit")) or kind.endswith(("Vision", "VideoMAE"))
        own |= PIXELS if images else TOKENS
    net = getattr(transformers, head)(getattr(transformers, f"{kind}Config")(**{**own, **options}))
    return OfTensors(net)


def bert_to_bert() -> nn.Module:
    """A BERT as a decoder, which also attends to what another one gives."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 16, **TOKENS}
    encoder = transformers.BertConfig(**sizes)
    decoder = transformers.BertConfig(**sizes, is_decoder=True, add_cross_attention=True, use_cache=False)
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return OfTensors(transformers.EncoderDecoderModel(both))


def image_to_text() -> nn.Module:
    """A ViT whose images a GPT-2 tells."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4}
    encoder = transformers.ViTConfig(**sizes, intermediate_size=16, **PIXELS)
    decoder = transformers.GPT2Config(**sizes, n_inner=16, vocab_size=20, add_cross_attention=True, use_cache=False)
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return OfTensors(transformers.VisionEncoderDecoderModel(both))


def detector() -> nn.Module:
    """A DETR of a small ResNet."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]}
    backbone = transformers.ResNetConfig(embedding_size=4, **sizes)
    return of_transformers("Detr", "DetrForObjectDetection", backbone_config=backbone, num_queries=3, **BART)


# The network, its elastic sizes, and how many parameters the smallest sizes remove, counted by hand.
FFN = 8 * (8 + 1 + 8)  # of 8 of 16 features, between a stream of 8
HEADS = 3 * (4 * 8 + 4) + 8 * 4  # of half of the heads: rows of queries, keys and values, columns of what reads them
ATTENTION = 4 * (8 * 8 + 8)
ALL = {"ffn": HALF, "heads": HALF, "depth": [1, 3]}
HALVES = {"ffn": HALF, "heads": HALF, "depth": HALF}
TEXT: dict[str, tuple[Make, dict[str, Any], int]] = {
    "bert": (
        lambda: of_transformers("Bert", "BertForSequenceClassification"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    "gpt2": (
        lambda: of_transformers("GPT2", "GPT2LMHeadModel"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    # whose feed-forward part has three layers without biases, and its attention half as many keys and values
    "llama": (
        lambda: of_transformers("Llama", "LlamaForCausalLM", num_key_value_heads=2),
        ALL,
        8 * 3 * 8 + 4 * 8 + 2 * (2 * 8) + 8 * 4 + 2 * (3 * 8 * 16 + 3 * 8 * 8 + 2 * 8),
    ),
    "distilbert": (
        lambda: of_transformers("DistilBert", "DistilBertForSequenceClassification"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    # which has no biases, but one of 32 distances for each head in the encoder, and one in the decoder; and a decoder's
    # layer has two attentions
    "t5": (
        lambda: of_transformers("T5", "T5ForConditionalGeneration"),
        ALL,
        2 * 8 * (2 * 8) + 3 * (4 * 8 * 4) + 2 * (32 * 2) + 2 * (4 * 16 * 8 + 3 * (4 * 8 * 8) + 5 * 8),
    ),
}
IMAGES: dict[str, tuple[Make, dict[str, Any], int]] = {
    "vit": (
        lambda: of_transformers("ViT", "ViTForImageClassification"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    "deit": (small_vit, ALL, 16 * 17 + HEADS + 2 * (ATTENTION + 32 * 17 + 8 + 2 * 16)),
}
FAMILIES: dict[str, Make] = {
    "roberta": lambda: of_transformers("Roberta", "RobertaForSequenceClassification"),
    "bert to bert": bert_to_bert,
    "xlm-roberta": lambda: of_transformers("XLMRoberta", "XLMRobertaForSequenceClassification"),
    "camembert": lambda: of_transformers("Camembert", "CamembertForSequenceClassification"),
    "electra": lambda: of_transformers("Electra", "ElectraForSequenceClassification"),
    "deberta": lambda: of_transformers(
        "DebertaV2", "DebertaV2ForSequenceClassification", relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "mpnet": lambda: of_transformers("MPNet", "MPNetForSequenceClassification"),
    "mistral": lambda: of_transformers("Mistral", "MistralForCausalLM", num_key_value_heads=2),
    "qwen2": lambda: of_transformers("Qwen2", "Qwen2ForCausalLM", num_key_value_heads=2),
    "qwen3": lambda: of_transformers("Qwen3", "Qwen3ForCausalLM", num_key_value_heads=2, head_dim=4),
    "gemma": lambda: of_transformers("Gemma", "GemmaForCausalLM", num_key_value_heads=2, head_dim=4),
    "gemma2": lambda: of_transformers("Gemma2", "Gemma2ForCausalLM", num_key_value_heads=2, head_dim=4),
    "gemma3": lambda: of_transformers("Gemma3Text", "Gemma3ForCausalLM", num_key_value_heads=2, head_dim=4),
    "smollm3": lambda: of_transformers("SmolLM3", "SmolLM3ForCausalLM", num_key_value_heads=2),
    "phi": lambda: of_transformers("Phi", "PhiForCausalLM", num_attention_heads=2),
    "gpt-neox": lambda: of_transformers("GPTNeoX", "GPTNeoXForCausalLM", num_attention_heads=2),
    "modernbert": lambda: of_transformers("ModernBert", "ModernBertForSequenceClassification"),
    "gated t5": lambda: of_transformers("T5", "T5ForConditionalGeneration", feed_forward_proj="gated-gelu"),
    "encoder of t5": lambda: of_transformers("T5", "T5EncoderModel", is_encoder_decoder=False),
    "mt5": lambda: of_transformers("MT5", "MT5ForConditionalGeneration"),
    "bart": lambda: of_transformers("Bart", "BartForConditionalGeneration", **BART),
    "mbart": lambda: of_transformers("MBart", "MBartForConditionalGeneration", **BART),
    "marian": lambda: of_transformers("Marian", "MarianMTModel", **BART),
    "pegasus": lambda: of_transformers("Pegasus", "PegasusForConditionalGeneration", **BART),
    "m2m100": lambda: of_transformers("M2M100", "M2M100ForConditionalGeneration", **BART),
    "whisper": lambda: of_transformers(
        "Whisper", "WhisperForConditionalGeneration", num_mel_bins=8, max_source_positions=8, **BART
    ),
    "opt": lambda: of_transformers("OPT", "OPTForCausalLM", word_embed_proj_dim=8),
    "wav2vec2": lambda: of_transformers("Wav2Vec2", "Wav2Vec2ForSequenceClassification", **SOUND),
    "wav2vec2 with a norm behind": lambda: of_transformers(
        "Wav2Vec2", "Wav2Vec2ForCTC", do_stable_layer_norm=True, **SOUND
    ),
    "hubert": lambda: of_transformers("Hubert", "HubertForSequenceClassification", **SOUND),
    "clip's text": lambda: of_transformers("CLIPText", "CLIPTextModelWithProjection"),
    "clip's images": lambda: of_transformers("CLIPVision", "CLIPVisionModelWithProjection"),
    "siglip's text": lambda: of_transformers("SiglipText", "SiglipTextModel", projection_size=8),
    "siglip's images": lambda: of_transformers("SiglipVision", "SiglipVisionModel"),
    "deit of transformers": lambda: of_transformers("DeiT", "DeiTForImageClassification"),
    "dinov2": lambda: of_transformers("Dinov2", "Dinov2ForImageClassification", mlp_ratio=2),
    "gated dinov2": lambda: of_transformers("Dinov2", "Dinov2ForImageClassification", mlp_ratio=2, use_swiglu_ffn=True),
    "layoutlm": lambda: of_transformers("LayoutLM", "LayoutLMForSequenceClassification"),
    "esm": lambda: of_transformers("Esm", "EsmForSequenceClassification", position_embedding_type="rotary"),
    **{
        kind.lower(): partial(of_transformers, kind, f"{kind}ForCausalLM", num_key_value_heads=2)
        for kind in ("Granite", "Olmo", "StableLm", "Cohere", "Cohere2", "Starcoder2")
    },
    "ministral": lambda: of_transformers("Ministral", "MinistralForCausalLM", num_key_value_heads=2, head_dim=4),
    "glm": lambda: of_transformers("Glm", "GlmForCausalLM", num_key_value_heads=2, head_dim=4),
    "glm4": lambda: of_transformers("Glm4", "Glm4ForCausalLM", num_key_value_heads=2, head_dim=4),
    "gpt-j": lambda: of_transformers("GPTJ", "GPTJForCausalLM", rotary_dim=2),
    "gpt-neo": lambda: of_transformers("GPTNeo", "GPTNeoForCausalLM", attention_types=[[["global"], 3]]),
    "umt5": lambda: of_transformers("UMT5", "UMT5ForConditionalGeneration"),
    "blenderbot": lambda: of_transformers("Blenderbot", "BlenderbotForConditionalGeneration", **BART),
    "image to text": image_to_text,
    "detr": detector,
    "dinov3": lambda: of_transformers("DINOv3ViT", "DINOv3ViTModel", num_attention_heads=2),
    "videomae": lambda: of_transformers("VideoMAE", "VideoMAEForVideoClassification", num_frames=2, tubelet_size=2),
    "videomae without a mean": lambda: of_transformers(
        "VideoMAE", "VideoMAEForVideoClassification", num_frames=2, tubelet_size=2, use_mean_pooling=False
    ),
    "dinov2 with registers": lambda: of_transformers(
        "Dinov2WithRegisters", "Dinov2WithRegistersForImageClassification", mlp_ratio=2
    ),
}
OTHERS: dict[str, tuple[Make, dict[str, Any]]] = {
    **{name: (make, HALVES) for name, make in FAMILIES.items()},
    "albert": (  # whose layers are one
        lambda: of_transformers("Albert", "AlbertForSequenceClassification", embedding_size=8),
        {"ffn": HALF, "heads": HALF},
    ),
    "phi3": (
        lambda: of_transformers("Phi3", "Phi3ForCausalLM", num_key_value_heads=2),
        {"ffn": HALF, "depth": HALF},
    ),
    # The heads of these have a norm or a bias in common, or a number that their code takes from the whole width.
    **{
        name: (partial(of_transformers, kind, head, **options), {"ffn": HALF, "depth": HALF})
        for name, kind, head, options in (
            ("olmo2", "Olmo2", "Olmo2ForCausalLM", {}),
            ("olmo3", "Olmo3", "Olmo3ForCausalLM", {}),
            ("bloom", "Bloom", "BloomForCausalLM", {"intermediate_size": None}),
            ("falcon", "Falcon", "FalconForCausalLM", {"ffn_hidden_size": 16}),
            ("long t5", "LongT5", "LongT5ForConditionalGeneration", {"local_radius": 2}),
            ("longformer", "Longformer", "LongformerForSequenceClassification", {"attention_window": 4}),
            ("big bird", "BigBird", "BigBirdForSequenceClassification", {"attention_type": "original_full"}),
            ("trocr", "TrOCR", "TrOCRForCausalLM", {**BART, "add_cross_attention": False}),
            ("wavlm", "WavLM", "WavLMForSequenceClassification", SOUND),
            ("beit", "Beit", "BeitForImageClassification", {"use_relative_position_bias": True}),
        )
    },
    **{  # whose experts keep their width; that of Qwen's shared expert is elastic
        f"mixture of {kind}": (
            partial(of_transformers, kind, f"{kind}ForCausalLM", num_key_value_heads=2, **EXPERTS),
            {"heads": HALF, "depth": HALF, **({"ffn": HALF} if kind == "Qwen2Moe" else {})},
        )
        for kind in ("Mixtral", "Qwen2Moe", "Qwen3Moe")
    },
    **{  # whose stages are not stacks of their own
        name: (partial(of_transformers, kind, head, depths=[2, 2], **STAGES[kind]), sizes)
        for name, kind, head, sizes in (
            ("swin", "Swin", "SwinForImageClassification", {"ffn": HALF, "heads": HALF}),
            ("swin v2", "Swinv2", "Swinv2ForImageClassification", {"ffn": HALF}),
            ("segformer", "Segformer", "SegformerForSemanticSegmentation", {"ffn": HALF, "heads": HALF}),
            ("convnext of transformers", "ConvNext", "ConvNextForImageClassification", {"ffn": HALF}),
        )
    },
    "vit with one layer for gates and values": (
        lambda: small_vit(mlp_layer=pytest.importorskip("timm.layers").GluMlp),
        HALVES,
    ),
    "averaging vit": (lambda: small_vit(global_pool="avg"), HALVES),
    "distilled deit": (
        lambda: of_timm("deit_tiny_distilled_patch16_224", img_size=32, embed_dim=8, depth=3, num_heads=2),
        HALVES,
    ),
    "efficientnet": (lambda: of_timm("efficientnet_lite0"), {"channels": HALF, "depth": HALF}),
    "squeezed": (lambda: of_timm("efficientnet_b0"), {"channels": HALF, "depth": HALF}),
    "edges": (lambda: of_timm("efficientnet_es"), {"channels": HALF}),
    "same padding": (lambda: of_timm("tf_mobilenetv3_small_075"), {"channels": HALF}),
    "convnext": (lambda: of_timm("convnext_atto", **TIMM_STAGES), {"ffn": HALF, "depth": HALF}),
    "convnext v2": (lambda: of_timm("convnextv2_atto", **TIMM_STAGES), {"depth": HALF}),
    **{
        name: (lambda name=name: nn.Sequential(of_timm(name, **TIMM_VIT)), {"ffn": HALF, "depth": HALF})  # type: ignore[misc]
        for name in ("beit_base_patch16_224", "eva02_tiny_patch14_224")
    },
    "mobilenet v3": (lambda: of_timm("mobilenetv3_small_050"), {"channels": HALF, "depth": HALF}),
    "resnet with pooling": (lambda: of_timm("resnet18d", zero_init_last=False), {"channels": HALF, "depth": HALF}),
    "resnet": (lambda: of_timm("resnet26"), {"channels": HALF, "depth": HALF}),
    "resnext": (lambda: of_timm("resnext50_32x4d"), {"channels": HALF}),
    "pre-activation resnet": (lambda: of_timm("resnetv2_18"), {"channels": HALF}),
    "pre-activation bottlenecks": (lambda: of_timm("resnetv2_50"), {"channels": HALF}),
    "regnet": (lambda: of_timm("regnetx_002"), {"channels": HALF}),
    "regnet with squeeze": (lambda: of_timm("regnety_002"), {"channels": HALF}),
    "densenet": (lambda: of_timm("densenet121"), {"channels": HALF}),
}


def inputs(net: nn.Module) -> Tensor:
    given = getattr(net, "given", "pixel_values")
    if given == "input_ids":
        return torch.randint(3, 20, (6, 5))
    if getattr(net, "is_video", False):
        return torch.randn(6, 2, 3, 32, 32)
    return torch.randn(*{"input_values": (6, 200), "input_features": (6, 8, 16), "pixel_values": (6, 3, 32, 32)}[given])


def masked(plain: nn.Module, found: nn.Module) -> nn.Module:
    """The large network, whose layers do not read what was left out, and whose stacks end where the small ones do."""
    masked = copy.deepcopy(plain)
    for name, own in found.named_modules():
        other: Any = masked.get_submodule(name)
        if isinstance(own, nn.ModuleList | nn.Sequential):
            del other[len(own) :]
        elif isinstance(own, nn.Linear):
            other.weight.data[:, own.in_features :] = 0
        elif isinstance(own, nn.Conv2d) and own.groups == 1:
            other.weight.data[:, own.in_channels :] = 0
        elif type(own).__name__ == "Conv1D":
            other.weight.data[own.nx :] = 0
    return masked


def check(net: nn.Module, sizes: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The network as it was, and what is found with the smallest sizes."""
    plain, x = copy.deepcopy(net.eval()), inputs(net)
    make_searchable(net, widths(**sizes))
    space = SearchSpace(net)
    assert {edge.rpartition(".")[2] for edge in space.edges} == set(sizes)
    with torch.no_grad():
        with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
            assert torch.equal(net(x), plain(x))
        narrowest = [0] * len(space)
        with space.bind(space.one_hot(narrowest)):
            expected = net(x)
        found = space.genotype(narrowest).apply(net)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-6)
        if "channels" not in sizes:
            torch.testing.assert_close(expected, masked(plain, found)(x), rtol=1e-5, atol=1e-6)
    drawn = space.one_hot(narrowest)
    gates = drawn.gates.clone().requires_grad_()
    with space.bind(drawn, gates):
        net.train()(x).square().sum().backward()
    assert gates.grad is not None
    depths = [index for index, edge in enumerate(space.edges) if edge.endswith("depth")]
    assert (gates.grad[depths, 0].abs() > 1e-6).all()
    return plain, found


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_becomes_a_smaller_one(name: str) -> None:
    make, sizes, removed = {**TEXT, **IMAGES}[name]
    plain, found = check(make(), sizes)
    assert count(plain) - count(found) == removed
    assert b"advnas" not in pickle.dumps(found.net if isinstance(found, OfTensors) else found)


@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_computes_the_same_in_another_order(name: str) -> None:
    make, sizes, _ = {**TEXT, **IMAGES}[name]
    net = make().double().eval()
    for weight in net.parameters():  # biases, too
        nn.init.normal_(weight, std=0.5)
    plain, x = copy.deepcopy(net), inputs(net)
    x = x.double() if x.is_floating_point() else x
    make_searchable(net, widths(**sizes, order_by="magnitude"))
    space = SearchSpace(net)
    with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
        torch.testing.assert_close(net(x), plain(x), rtol=1e-9, atol=1e-9)
    moved = {key.replace("widest.", ""): value for key, value in net.state_dict().items()}
    assert any(not torch.equal(value, moved[key]) for key, value in plain.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_network_of_another_family_becomes_a_smaller_one(name: str) -> None:
    make, sizes = OTHERS[name]
    check(make(), sizes)


def test_attentions_to_an_encoder_have_elastic_heads() -> None:
    net = bert_to_bert()
    make_searchable(net, widths(heads=HALF))
    edges = SearchSpace(net).edges
    assert len(edges) == 9
    assert "net.decoder.bert.encoder.layer.2.crossattention.heads" in edges


@pytest.mark.parametrize("use_conv", [False, True])
def test_channels_that_are_divided_by_their_mean_are_those_of_what_is_built_small(use_conv: bool) -> None:
    make = pytest.importorskip("timm.layers.mlp").GlobalResponseNormMlp
    net = nn.Sequential(make(4, 8, use_conv=use_conv))
    for weight in net.parameters():
        nn.init.normal_(weight)
    make_searchable(net, widths(ffn=HALF))
    space, x = SearchSpace(net), torch.randn(2, 4, 4, 4)
    found = space.genotype([0]).apply(net)
    small = nn.Sequential(make(4, 4, use_conv=use_conv))
    small.load_state_dict(found.state_dict(), strict=True)
    with space.bind(space.one_hot([0])):
        torch.testing.assert_close(net(x), small(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found(x), small(x), rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["advantage", "darts"])
@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_is_searched(name: str, strategy: str, make_search: Make, fit: Make) -> None:
    make, sizes, _ = {**TEXT, **IMAGES}[name]
    net = make()
    make_searchable(net, widths(**sizes), share=lambda edge, _: edge.rpartition(".")[2])
    search = make_search(strategy, net)
    before, x = search.theta.detach().clone(), inputs(net)
    loader = DataLoader(TensorDataset(x, torch.randint(CLASSES, (len(x),))), batch_size=3)
    fit(search, {"weights": loader, "architecture": loader})
    assert (search.theta != before).any(dim=1).all()  # every edge has a gradient
    found, space = search.derive().eval(), search.space
    with torch.no_grad(), space.bind(space.one_hot(space.choice(search.genotype(search.select)))):
        torch.testing.assert_close(found(x), search.model.eval()(x), rtol=0, atol=1e-6)
    again = pickle.loads(pickle.dumps(found))
    with torch.no_grad():
        assert torch.equal(again(x), found(x))


# The sizes that a config can say, and one that it cannot, with the reason.
SAVED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "bert": ({"ffn": HALF, "depth": [1, 3]}, {"heads": HALF}, "no config of a BertForSequenceClassification describes"),
    "gpt2": ({"ffn": HALF, "depth": [1, 3]}, {"heads": HALF}, "no config of a GPT2LMHeadModel describes the network"),
    "llama": (ALL, {"heads": [2, 4]}, ""),
    "qwen2": (ALL, {"heads": [2, 4]}, ""),  # whose config has the kind of attention of each layer
    "vit": (ALL, {"heads": [2, 4]}, ""),
    "t5": (ALL, {"heads": [2, 4]}, ""),
    "distilbert": (
        {"ffn": HALF, "depth": [1, 3]},
        {"heads": HALF},
        "no config of a DistilBertForSequenceClassification describes the network",
    ),
    "bart": ({"ffn": HALF, "depth": [1, 3]}, {"heads": HALF}, "no config of a BartForConditionalGeneration describes"),
    "image to text": (
        {"ffn": HALF, "depth": [1, 3]},
        {"heads": HALF},
        "no config of a VisionEncoderDecoderModel describes",
    ),
    "falcon": ({"ffn": HALF, "depth": [1, 3]}, {}, ""),
    "dinov2": (  # whose config names its stages
        {"heads": HALF},
        {"depth": [1, 3]},
        "no Dinov2ForImageClassification can be built with num_hidden_layers=1",
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_found_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    sizes, others, reason = SAVED[name]
    make = {**TEXT, **IMAGES, **OTHERS}[name][0]

    def found(kinds: dict[str, Any], **options: Any) -> Any:
        net = make().eval()
        make_searchable(net, widths(**kinds), **options)
        space = SearchSpace(net)
        return space.genotype([0] * len(space)).apply(net)

    small = found(sizes)
    fit_config(small.net)
    small.net.save_pretrained(tmp_path)
    again, x = OfTensors(type(small.net).from_pretrained(tmp_path)).eval(), inputs(small)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    if reason:
        with one_line(reason, "save it with torch.save"):
            fit_config(found(others).net)
    net = make().eval()
    make_searchable(net, widths(ffn=HALF))
    space = SearchSpace(net)
    uneven: Any = space.genotype([0] + [1] * (len(space) - 1)).apply(net)
    before = uneven.net.config.to_dict()
    with one_line("a config has one ffn for all layers, and the network has 8, 16: search one for all with share="):
        fit_config(uneven.net)
    assert uneven.net.config.to_dict() == before


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_text_is_generated(name: str) -> None:
    net: Any = TEXT[name][0]().eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    plain, x = copy.deepcopy(net), inputs(net)
    mask = torch.ones_like(x).tril(2)

    def text(net: Any, **options: Any) -> Tensor:
        found: Tensor = net.net.generate(x, attention_mask=mask, max_new_tokens=5, do_sample=False, **options)
        return found

    make_searchable(net, widths(**ALL))
    space = SearchSpace(net)
    small = space.genotype([0] * len(space)).apply(net)
    assert torch.equal(text(small, use_cache=True), text(small, use_cache=False))
    for candidate, expected in ((0, small), (1, plain)):
        with space.bind(space.one_hot([candidate] * len(space))):
            assert torch.equal(text(net, use_cache=True, num_beams=2), text(expected, use_cache=True, num_beams=2))


def test_all_hidden_states_are_given_after_a_pass_of_few_layers() -> None:
    net: Any = TEXT["llama"][0]().eval()
    plain, x = copy.deepcopy(net), inputs(net)
    make_searchable(net, widths(depth=[1, 3]))
    space = SearchSpace(net)
    for candidate in (0, 1):
        with torch.no_grad(), space.bind(space.one_hot([candidate])):
            found = net.net(x, output_hidden_states=True).hidden_states
    assert all(map(torch.equal, found, plain.net(x, output_hidden_states=True).hidden_states))
    assert len(found) == 4


def test_a_cache_of_keys_is_no_output_that_can_be_mixed(make_search: Make, fit: Make) -> None:
    net = of_transformers("GPT2", "GPT2LMHeadModel", use_cache=True)
    make_searchable(net, widths(depth=[1, 3]))
    space, x = SearchSpace(net), inputs(net)
    with space.bind(space.one_hot([0])):  # one candidate alone hands it on
        net(x)
    drawn = space.one_hot([0])
    with (
        pytest.raises(ValueError, match="only floating-point tensors are mixed, make all else equal"),
        space.bind(type(drawn)(torch.full((1, 2), 0.5), space.all_paths)),
    ):
        net(x)
