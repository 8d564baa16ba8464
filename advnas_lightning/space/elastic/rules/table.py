"""The blocks whose sizes are known, by the names of their classes, so that no package is imported for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from advnas_lightning.space.elastic.kinds import BARTS, BERTS, CLIPS, LLAMAS, T5S, VITS, WAV2VECS, qualified
from advnas_lightning.space.elastic.rules.descriptions import Description, Heads, Stack, Width

TRANSFORMER_LAYER = (Width("ffn", ["linear1"], ["linear2"]),)
BASIC_BLOCK = (Width("channels", ["conv1"], ["conv2"], through=["bn1"]),)
BOTTLENECK = (
    Width("channels", ["conv1"], ["conv2"], through=["bn1"]),
    Width("channels", ["conv2"], ["conv3"], through=["bn2"]),
    Width("channels", ["conv1"], ["conv3"], through=["bn1", "conv2", "bn2"]),  # with groups, as in ResNeXt
)
RESNET = (
    *(
        Stack(f"layer{n}", behind=[f"layer{n + 1}.0.bn1", f"layer{n + 1}.0.downsample.{norm}"])
        for n in (1, 2, 3)
        for norm in (2, 1)  # there is a pooling before it in some networks of timm
    ),
    Stack("layer4"),
)
PRE_ACTIVATION = (Width("channels", ["conv1"], ["conv2"], through=["norm2"]),)
MBCONV = (  # with squeeze-excitation, and without
    Width(
        "channels",
        ["block.0.0", "block.2.fc2"],
        ["block.2.fc1", "block.3.0"],
        through=["block.0.1", "block.1.0", "block.1.1"],
    ),
    Width("channels", ["block.0.0"], ["block.2.0"], through=["block.0.1", "block.1.0", "block.1.1"]),
)
REGNET_BOTTLENECK = (  # with squeeze-excitation, and without
    Width("channels", ["a.0", "se.fc2"], ["se.fc1", "c.0"], through=["a.1", "b.0", "b.1"]),
    Width("channels", ["a.0"], ["c.0"], through=["a.1", "b.0", "b.1"]),
)
REGNET = (
    *(
        Stack(
            f"trunk_output.block{n}",
            behind=[f"trunk_output.block{n + 1}.block{n + 1}-0.{norm}" for norm in ("f.a.1", "proj.1")],
        )
        for n in (1, 2, 3)
    ),
    Stack("trunk_output.block4"),
)
EFFICIENT_NET = tuple(
    Stack(f"features.{stage}", behind=[f"features.{stage + 1}.{norm}"])
    for stage in range(1, 9)
    for norm in ("0.block.0.1", "1")  # behind the last stage there is no block
)
CONVNEXT = tuple(
    Stack(f"features.{stage}", behind=[norm])
    for stage in (1, 3, 5, 7)
    for norm in (f"features.{stage + 1}.0", "classifier.0")
)
TIMM_BASIC_BLOCK = (Width("channels", ["conv1"], ["conv2"], through=["bn1", "drop_block", "aa"]),)
TIMM_BOTTLENECK = (
    Width("channels", ["conv1"], ["conv2"], through=["bn1"]),
    Width("channels", ["conv2"], ["conv3"], through=["bn2", "drop_block", "aa"]),
    Width("channels", ["conv1"], ["conv3"], through=["bn1", "conv2", "bn2", "drop_block", "aa"]),
)
TIMM_INVERTED = (
    Width(
        "channels",
        ["conv_pw", "se.conv_expand"],
        ["se.conv_reduce", "conv_pwl"],
        through=["bn1", "conv_dw", "bn2", "aa"],
    ),
    Width("channels", ["conv_pw"], ["conv_pwl"], through=["bn1", "conv_dw", "bn2", "aa", "se"]),
)
TIMM_EDGE = (
    Width("channels", ["conv_exp", "se.conv_expand"], ["se.conv_reduce", "conv_pwl"], through=["bn1", "aa"]),
    Width("channels", ["conv_exp"], ["conv_pwl"], through=["bn1", "aa", "se"]),
)
TIMM_PRE_ACTIVATION = (
    Width("channels", ["conv1"], ["conv2"], through=["norm2"]),
    Width("channels", ["conv2"], ["conv3"], through=["norm3"]),
)
TIMM_REGNET_BOTTLENECK = (
    Width(
        "channels",
        ["conv1.conv", "se.fc2"],
        ["se.fc1", "conv3.conv"],
        through=["conv1.bn", "conv2.conv", "conv2.bn"],
    ),
    Width("channels", ["conv1.conv"], ["conv3.conv"], through=["conv1.bn", "conv2.conv", "conv2.bn", "se"]),
)
TIMM_STAGES = tuple(
    Stack(f"blocks.{stage}", behind=[norm])
    for stage in range(10)
    for norm in (f"blocks.{stage + 1}.0.bn1", "bn2")  # that of the head behind the last stage
)
TIMM_CONVNEXT = (
    *(Stack(f"stages.{stage}.blocks", behind=[f"stages.{stage + 1}.downsample.0"]) for stage in range(3)),
    *(Stack("stages.3.blocks", behind=[norm]) for norm in ("head.norm", "norm_pre")),
)
GATED_FEED_FORWARD = (Width("ffn", ["gate_proj", "up_proj"], ["down_proj"]),)
FEED_FORWARD = (Width("ffn", ["fc1"], ["fc2"]),)
VIT_MODEL = (Stack("layers"), Stack("encoder.layer", behind=["layernorm"]))  # the latter of DINOv2
BERT_LAYER = (Width("ffn", ["intermediate.dense"], ["output.dense"]),)
# Families that have parts in common with others, and attentions of their own.
OTHER_BERTS = ("longformer.modeling_longformer.Longformer", "big_bird.modeling_big_bird.BigBird")
OTHER_T5S = ("umt5.modeling_umt5.UMT5", "longt5.modeling_longt5.LongT5")
TROCR = "trocr.modeling_trocr.TrOCR"
GPT2, GPTJ, GPT_NEO = "gpt2.modeling_gpt2.GPT2", "gptj.modeling_gptj.GPTJ", "gpt_neo.modeling_gpt_neo.GPTNeo"
BLOOMS = ("bloom.modeling_bloom.Bloom", "falcon.modeling_falcon.Falcon")
GPT_NEOX = "gpt_neox.modeling_gpt_neox.GPTNeoX"

BLOCKS: dict[str, Sequence[Description]] = {
    "torch.nn.modules.transformer.TransformerEncoderLayer": TRANSFORMER_LAYER,
    "torch.nn.modules.transformer.TransformerDecoderLayer": TRANSFORMER_LAYER,
    "torch.nn.modules.transformer.TransformerEncoder": (Stack("layers"),),
    "torch.nn.modules.transformer.TransformerDecoder": (Stack("layers"),),
    "torch.nn.modules.activation.MultiheadAttention": (Heads(),),
    "torchvision.ops.misc.MLP": (Width("ffn", ["0"], ["3"]),),  # of vision and Swin transformers
    "torchvision.models.vision_transformer.Encoder": (Stack("layers", behind=["ln"]),),
    "torchvision.models.convnext.CNBlock": (Width("ffn", ["block.3"], ["block.5"]),),
    "torchvision.models.convnext.ConvNeXt": CONVNEXT,
    "torchvision.models.resnet.BasicBlock": BASIC_BLOCK,
    "torchvision.models.resnet.Bottleneck": BOTTLENECK,
    "torchvision.models.resnet.ResNet": RESNET,
    "torchvision.models.regnet.BottleneckTransform": REGNET_BOTTLENECK,
    "torchvision.models.regnet.RegNet": REGNET,
    "torchvision.models.densenet._DenseLayer": PRE_ACTIVATION,
    "torchvision.models.mnasnet._InvertedResidual": (
        Width("channels", ["layers.0"], ["layers.6"], through=["layers.1", "layers.3", "layers.4"]),
    ),
    "torchvision.models.mobilenetv2.InvertedResidual": (
        Width("channels", ["conv.0.0"], ["conv.2"], through=["conv.0.1", "conv.1.0", "conv.1.1"]),
    ),
    "torchvision.models.mobilenetv3.InvertedResidual": MBCONV,
    "torchvision.models.efficientnet.MBConv": MBCONV,
    "torchvision.models.efficientnet.EfficientNet": EFFICIENT_NET,
    "torchvision.models.efficientnet.FusedMBConv": (
        Width("channels", ["block.0.0"], ["block.1.0"], through=["block.0.1"]),
    ),
    "timm.layers.mlp.Mlp": (Width("ffn", ["fc1"], ["fc2"], through=["norm"]),),
    "timm.layers.mlp.ConvMlp": (Width("ffn", ["fc1"], ["fc2"], through=["norm"]),),
    "timm.layers.mlp.GlobalResponseNormMlp": (Width("ffn", ["fc1"], ["fc2"], through=["grn"]),),
    "timm.layers.mlp.GluMlp": (Width("ffn", [], ["fc2"], through=["norm"], halves=["fc1"]),),
    "timm.layers.mlp.SwiGLU": (Width("ffn", ["fc1_g", "fc1_x"], ["fc2"], through=["norm"]),),
    "timm.layers.attention.Attention": (Heads(),),
    "timm.models.vision_transformer.VisionTransformer": (Stack("blocks", behind=["norm", "fc_norm"]),),
    "timm.models.resnet.BasicBlock": TIMM_BASIC_BLOCK,
    "timm.models.resnet.Bottleneck": TIMM_BOTTLENECK,
    "timm.models.resnet.ResNet": RESNET,
    "timm.models.resnetv2.PreActBasic": PRE_ACTIVATION,
    "timm.models.resnetv2.PreActBottleneck": TIMM_PRE_ACTIVATION,
    "timm.models.regnet.Bottleneck": TIMM_REGNET_BOTTLENECK,
    "timm.models.densenet.DenseLayer": PRE_ACTIVATION,
    "timm.models._efficientnet_blocks.InvertedResidual": TIMM_INVERTED,
    "timm.models._efficientnet_blocks.EdgeResidual": TIMM_EDGE,
    "timm.models.efficientnet.EfficientNet": TIMM_STAGES,
    "timm.models.mobilenetv3.MobileNetV3": TIMM_STAGES,
    "timm.models.convnext.ConvNeXt": TIMM_CONVNEXT,
    "timm.models.eva.Eva": (Stack("blocks"),),
    "timm.models.beit.Beit": (Stack("blocks"),),
    **{f"transformers.models.{name}Layer": BERT_LAYER for name in (*BERTS, *OTHER_BERTS)},
    **{f"transformers.models.{name}Attention": (Heads("self", reads=["output.dense"]),) for name in BERTS},
    **{f"transformers.models.{name}Encoder": (Stack("layer"),) for name in (*BERTS, *OTHER_BERTS)},
    "transformers.models.deberta_v2.modeling_deberta_v2.DebertaV2Layer": BERT_LAYER,
    "transformers.models.deberta_v2.modeling_deberta_v2.DebertaV2Attention": (Heads("self", reads=["output.dense"]),),
    "transformers.models.deberta_v2.modeling_deberta_v2.DebertaV2Encoder": (Stack("layer"),),
    "transformers.models.mpnet.modeling_mpnet.MPNetLayer": BERT_LAYER,
    "transformers.models.mpnet.modeling_mpnet.MPNetEncoder": (Heads(), Stack("layer")),
    "transformers.models.albert.modeling_albert.AlbertLayer": (Width("ffn", ["ffn"], ["ffn_output"]),),
    "transformers.models.albert.modeling_albert.AlbertAttention": (Heads(),),
    "transformers.models.distilbert.modeling_distilbert.FFN": (Width("ffn", ["lin1"], ["lin2"]),),
    "transformers.models.distilbert.modeling_distilbert.DistilBertSelfAttention": (Heads(),),
    "transformers.models.distilbert.modeling_distilbert.Transformer": (Stack("layer"),),
    **{f"transformers.models.{name}DenseActDense": (Width("ffn", ["wi"], ["wo"]),) for name in (*T5S, *OTHER_T5S)},
    **{
        f"transformers.models.{name}DenseGatedActDense": (Width("ffn", ["wi_0", "wi_1"], ["wo"]),)
        for name in (*T5S, *OTHER_T5S)
    },
    **{f"transformers.models.{name}Stack": (Stack("block"),) for name in OTHER_T5S},
    "transformers.models.umt5.modeling_umt5.UMT5Attention": (Heads(),),
    **{f"transformers.models.{name}Stack": (Heads(), Stack("block")) for name in T5S},
    **{
        f"transformers.models.{name}{side}Layer": FEED_FORWARD
        for name in (*BARTS, TROCR)
        for side in ("Encoder", "Decoder")
    },
    **{
        f"transformers.models.{name}{side}": (Stack("layers"),)
        for name in (*BARTS, TROCR)
        for side in ("Encoder", "Decoder")
    },
    **{f"transformers.models.{name}Attention": (Heads(),) for name in (*BARTS, *CLIPS, *LLAMAS, *VITS, *WAV2VECS)},
    **{
        f"transformers.models.{name}FeedForward": (Width("ffn", ["intermediate_dense"], ["output_dense"]),)
        for name in WAV2VECS
    },
    **{
        f"transformers.models.{name}Encoder{norm}": (Stack("layers"),)
        for name in WAV2VECS
        for norm in ("", "StableLayerNorm")
    },
    **{f"transformers.models.{name}MLP": FEED_FORWARD for name in (*CLIPS, *VITS)},
    **{
        f"transformers.models.{name}{side}Model": (Stack("encoder.layers", behind=[norm]),)
        for name in CLIPS
        for side, norm in (("Text", "final_layer_norm"), ("Vision", "post_layernorm"))
    },
    **{f"transformers.models.{name}Model": (Stack("layers"),) for name in LLAMAS},
    **{f"transformers.models.{name}TextModel": (Stack("layers"),) for name in LLAMAS},  # of Gemma 3
    **{f"transformers.models.{name}MLP": GATED_FEED_FORWARD for name in LLAMAS},
    **{f"transformers.models.{name}SwiGLUFFN": GATED_FEED_FORWARD for name in VITS},  # of the largest DINOv2
    **{f"transformers.models.{name}Model": VIT_MODEL for name in VITS},
    "transformers.models.vit.modeling_vit.ViTAttention": (Heads(), Heads("attention", reads=["output.dense"])),
    "transformers.models.vit.modeling_vit.ViTLayer": BERT_LAYER,  # before transformers 5
    "transformers.models.phi.modeling_phi.PhiMLP": FEED_FORWARD,
    "transformers.models.phi.modeling_phi.PhiAttention": (Heads(),),
    "transformers.models.phi.modeling_phi.PhiModel": (Stack("layers"),),
    **{
        f"transformers.models.{name}MLP": (Width("ffn", ["dense_h_to_4h"], ["dense_4h_to_h"]),)
        for name in (GPT_NEOX, *BLOOMS)
    },
    f"transformers.models.{GPT_NEOX}Attention": (Heads(),),
    f"transformers.models.{GPT_NEOX}Model": (Stack("layers"),),
    **{f"transformers.models.{name}Model": (Stack("h"),) for name in (GPT2, GPTJ, GPT_NEO, *BLOOMS)},
    **{
        f"transformers.models.{name}MLP": (Width("ffn", ["c_fc"], ["c_proj"]),)
        for name in (GPT2, GPT_NEO, "starcoder2.modeling_starcoder2.Starcoder2")
    },
    f"transformers.models.{GPT2}Attention": (Heads(),),
    f"transformers.models.{GPT_NEO}SelfAttention": (Heads(),),
    f"transformers.models.{GPTJ}Attention": (Heads(),),
    f"transformers.models.{GPTJ}MLP": (Width("ffn", ["fc_in"], ["fc_out"]),),
    "transformers.models.modernbert.modeling_modernbert.ModernBertMLP": (Width("ffn", [], ["Wo"], halves=["Wi"]),),
    "transformers.models.modernbert.modeling_modernbert.ModernBertAttention": (Heads(),),
    "transformers.models.modernbert.modeling_modernbert.ModernBertModel": (Stack("layers"),),
    **{
        f"transformers.models.{name}MLP": (Width("ffn", [], ["down_proj"], halves=["gate_up_proj"]),)
        for name in ("phi3.modeling_phi3.Phi3", "glm.modeling_glm.Glm", "glm4.modeling_glm4.Glm4")
    },
    "transformers.models.phi3.modeling_phi3.Phi3Model": (Stack("layers"),),
    "transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTMLP": (Width("ffn", ["up_proj"], ["down_proj"]),),
    "transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTGatedMLP": GATED_FEED_FORWARD,
    "transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTModel": (Stack("model.layer", behind=["norm"]),),
    "transformers.models.beit.modeling_beit.BeitMLP": FEED_FORWARD,
    "transformers.models.beit.modeling_beit.BeitModel": VIT_MODEL,
    "transformers.models.swin.modeling_swin.SwinMLP": FEED_FORWARD,
    "transformers.models.swin.modeling_swin.SwinAttention": (Heads(),),
    "transformers.models.swinv2.modeling_swinv2.Swinv2Layer": BERT_LAYER,
    "transformers.models.segformer.modeling_segformer.SegformerMixMLP": (
        Width("ffn", ["fc1"], ["fc2"], through=["dwconv.dwconv"]),
    ),
    "transformers.models.segformer.modeling_segformer.SegformerAttention": (Heads(),),
    "transformers.models.convnext.modeling_convnext.ConvNextLayer": (Width("ffn", ["pwconv1"], ["pwconv2"]),),
    "transformers.models.videomae.modeling_videomae.VideoMAELayer": BERT_LAYER,
    "transformers.models.videomae.modeling_videomae.VideoMAEAttention": (Heads("attention", reads=["output.dense"]),),
    "transformers.models.videomae.modeling_videomae.VideoMAEModel": (Stack("encoder.layer", behind=["layernorm"]),),
    "transformers.models.videomae.modeling_videomae.VideoMAEForVideoClassification": (
        Stack("videomae.encoder.layer", behind=["fc_norm"]),
    ),
    "transformers.models.detr.modeling_detr.DetrMLP": FEED_FORWARD,
    "transformers.models.detr.modeling_detr.DetrSelfAttention": (Heads(),),
    "transformers.models.detr.modeling_detr.DetrCrossAttention": (Heads(),),
    "transformers.models.detr.modeling_detr.DetrEncoder": (Stack("layers"),),
    "transformers.models.detr.modeling_detr.DetrDecoder": (Stack("layers"),),
}
"""The descriptions of a block's sizes by the name of its class with its module. Of those whose first module is the
same, the first one holds that fits the block."""

Blocks = Mapping[type[nn.Module], Description | Sequence[Description]]


def checked_blocks(blocks: Any) -> Blocks:
    """A user's own descriptions, after a look at each.

    Args:
        blocks: What should be descriptions by class.

    Raises:
        ValueError: It is something else.

    Example:
        >>> checked_blocks({nn.Linear: "up"})
        Traceback (most recent call last):
            ...
        ValueError: blocks has 'up' for Linear: give a Width, Heads, a Stack, or a list of them
    """
    if not isinstance(blocks, Mapping):
        raise ValueError(f"blocks={blocks!r} is no mapping: give descriptions by the class of a block")
    for kind, described in blocks.items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"blocks has {kind!r}, which is no class of modules: give descriptions by such a class")
        each = described if isinstance(described, list | tuple) else [described]
        if not each or not all(isinstance(one, Heads | Stack | Width) for one in each):
            raise ValueError(
                f"blocks has {described!r} for {kind.__name__}: give a Width, Heads, a Stack, or a list of them"
            )
    return blocks


def descriptions_of(block: nn.Module, own: Blocks) -> tuple[Sequence[Description], bool]:
    """The descriptions of a block's sizes.

    A class that has a forward pass of its own is not known by the class that it inherits from, since it may use the
    modules otherwise.

    Args:
        block: The block.
        own: A user's own descriptions by class. They go before those of the table.

    Returns:
        The descriptions, and whether they are a user's own.

    Example:
        >>> layer = nn.TransformerEncoderLayer(4, 2, 8)
        >>> [description.kind for description in descriptions_of(layer, {})[0]], descriptions_of(nn.ReLU(), {})
        (['ffn'], ((), False))
    """
    for kind in type(block).__mro__:
        name = qualified(kind)
        if (kind not in own and name not in BLOCKS) or type(block).forward is not kind.forward:  # type: ignore[attr-defined]
            continue
        found = own.get(kind, BLOCKS.get(name, ()))
        return (found if isinstance(found, Sequence) else (found,)), kind in own
    return (), False
