"""The modules that can be elastic, and what they are refused for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from advnas_lightning.space.elastic.attention import NumHeads
from advnas_lightning.space.elastic.axes import Axis, EmbeddingDim, InFeatures, InHalves, OutHalves
from advnas_lightning.space.elastic.convolutions import (
    GroupedChannels,
    InChannels,
    KernelSize,
    OutChannels,
    TransposedGroups,
    TransposedInChannels,
    TransposedOutChannels,
)
from advnas_lightning.space.elastic.convolutions import InHalves as InChannelHalves
from advnas_lightning.space.elastic.heads import FusedHeads, GroupedHeads, Heads, HeadsOfStack, InnerHeads, TwoLayers
from advnas_lightning.space.elastic.narrowing import Change, refuse_computed
from advnas_lightning.space.elastic.norms import (
    InstanceFeatures,
    NormalizedShape,
    NumChannels,
    NumFeatures,
    NumParameters,
    ResponseNorm,
)
from advnas_lightning.space.elastic.recurrent import HiddenSize, InputHalves, InputSize
from advnas_lightning.space.elastic.transposed import Nf, Nx
from advnas_lightning.texts import listed

CHANNELS = (OutChannels(), GroupedChannels(), InChannels(), InChannelHalves())
CONVOLUTION = (*CHANNELS, KernelSize())
TRANSPOSED = (TransposedOutChannels(), TransposedGroups(), TransposedInChannels())
BATCH_NORM = (NumFeatures(),)
RECURRENT = (HiddenSize(), InputSize(), InputHalves())
# Families of Hugging Face whose classes are built alike.
BERTS = (
    "bert.modeling_bert.Bert",
    "roberta.modeling_roberta.Roberta",
    "xlm_roberta.modeling_xlm_roberta.XLMRoberta",
    "camembert.modeling_camembert.Camembert",
    "electra.modeling_electra.Electra",
    "layoutlm.modeling_layoutlm.LayoutLM",
    "esm.modeling_esm.Esm",
)
LLAMAS = (
    "llama.modeling_llama.Llama",
    "mistral.modeling_mistral.Mistral",
    "qwen2.modeling_qwen2.Qwen2",
    "qwen3.modeling_qwen3.Qwen3",
    "gemma.modeling_gemma.Gemma",
    "gemma2.modeling_gemma2.Gemma2",
    "gemma3.modeling_gemma3.Gemma3",
    "smollm3.modeling_smollm3.SmolLM3",
    "ministral.modeling_ministral.Ministral",
    "mixtral.modeling_mixtral.Mixtral",
    "qwen2_moe.modeling_qwen2_moe.Qwen2Moe",
    "qwen3_moe.modeling_qwen3_moe.Qwen3Moe",
    "granite.modeling_granite.Granite",
    "olmo.modeling_olmo.Olmo",
    "olmo2.modeling_olmo2.Olmo2",
    "olmo3.modeling_olmo3.Olmo3",
    "stablelm.modeling_stablelm.StableLm",
    "cohere.modeling_cohere.Cohere",
    "cohere2.modeling_cohere2.Cohere2",
    "starcoder2.modeling_starcoder2.Starcoder2",
    "glm.modeling_glm.Glm",
    "glm4.modeling_glm4.Glm4",
)
VITS = (
    "vit.modeling_vit.ViT",
    "deit.modeling_deit.DeiT",
    "dinov2.modeling_dinov2.Dinov2",
    "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegisters",
    "dinov3_vit.modeling_dinov3_vit.DINOv3ViT",
    "vit_mae.modeling_vit_mae.ViTMAE",
)
CLIPS = ("clip.modeling_clip.CLIP", "siglip.modeling_siglip.Siglip")
BARTS = (
    "bart.modeling_bart.Bart",
    "mbart.modeling_mbart.MBart",
    "marian.modeling_marian.Marian",
    "pegasus.modeling_pegasus.Pegasus",
    "m2m_100.modeling_m2m_100.M2M100",
    "whisper.modeling_whisper.Whisper",
    "blenderbot.modeling_blenderbot.Blenderbot",
    "opt.modeling_opt.OPT",  # a decoder alone
)
WAV2VECS = ("wav2vec2.modeling_wav2vec2.Wav2Vec2", "hubert.modeling_hubert.Hubert", "wavlm.modeling_wavlm.WavLM")
T5S = ("t5.modeling_t5.T5", "mt5.modeling_mt5.MT5")
OUT_PROJ = GroupedHeads(("q_proj", "k_proj", "v_proj", "out_proj"))
T5_HEADS = GroupedHeads(("q", "k", "v", "o"), "key_value_proj_dim", ("n_heads",), ("inner_dim",))
MPNET_HEADS = GroupedHeads(("q", "k", "v", "o"), "attention_head_size", widths=("all_head_size",))
ALBERT_HEADS = GroupedHeads(
    ("query", "key", "value", "dense"), "attention_head_size", widths=("all_head_size",), common=("LayerNorm",)
)
DISTILBERT_HEADS = GroupedHeads(("q_lin", "k_lin", "v_lin", "out_lin"), "attention_head_size", ("n_heads",))
DEBERTA_HEADS = InnerHeads(("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"))
AXES: dict[type[nn.Module] | str, tuple[Axis, ...]] = {
    nn.Linear: (Axis(), OutHalves(), InFeatures(), InHalves()),
    nn.Embedding: (EmbeddingDim(),),
    nn.EmbeddingBag: (EmbeddingDim(),),
    nn.Conv1d: CONVOLUTION,
    nn.Conv2d: CONVOLUTION,
    nn.Conv3d: CONVOLUTION,
    nn.ConvTranspose1d: TRANSPOSED,
    nn.ConvTranspose2d: TRANSPOSED,
    nn.ConvTranspose3d: TRANSPOSED,
    nn.BatchNorm1d: BATCH_NORM,
    nn.BatchNorm2d: BATCH_NORM,
    nn.BatchNorm3d: BATCH_NORM,
    nn.SyncBatchNorm: BATCH_NORM,
    nn.InstanceNorm1d: (InstanceFeatures(1),),
    nn.InstanceNorm2d: (InstanceFeatures(2),),
    nn.InstanceNorm3d: (InstanceFeatures(3),),
    nn.LayerNorm: (NormalizedShape(),),
    nn.RMSNorm: (NormalizedShape(),),
    nn.GroupNorm: (NumChannels(),),
    nn.PReLU: (NumParameters(),),
    nn.RNN: RECURRENT,
    nn.GRU: RECURRENT,
    nn.LSTM: RECURRENT,
    nn.MultiheadAttention: (NumHeads(),),
    "timm.layers.conv2d_same.Conv2dSame": CHANNELS,  # its padding depends on the kernel
    "timm.layers.norm_act.BatchNormAct2d": BATCH_NORM,
    "timm.layers.norm.LayerNorm": (NormalizedShape(),),
    "timm.layers.grn.GlobalResponseNorm": (ResponseNorm(),),
    "timm.layers.attention.Attention": (Heads(),),
    "transformers.pytorch_utils.Conv1D": (Nf(), Nx()),
    "transformers.models.gpt2.modeling_gpt2.GPT2Attention": (FusedHeads(),),
    "transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXAttention": (
        TwoLayers("query_key_value", "dense", "head_size", by_head=True),
    ),
    "transformers.models.modernbert.modeling_modernbert.ModernBertAttention": (
        TwoLayers("Wqkv", "Wo", "head_dim", by_head=False),
    ),
    "transformers.models.distilbert.modeling_distilbert.DistilBertSelfAttention": (DISTILBERT_HEADS,),
    "transformers.models.albert.modeling_albert.AlbertAttention": (ALBERT_HEADS,),
    "transformers.models.mpnet.modeling_mpnet.MPNetEncoder": (HeadsOfStack(MPNET_HEADS),),
    "transformers.models.deberta_v2.modeling_deberta_v2.DisentangledSelfAttention": (DEBERTA_HEADS,),
    "transformers.models.phi.modeling_phi.PhiAttention": (GroupedHeads(("q_proj", "k_proj", "v_proj", "dense")),),
    "transformers.models.vit.modeling_vit.ViTSelfAttention": (InnerHeads(),),  # before transformers 5
    **{f"transformers.models.{name}{kind}Attention": (InnerHeads(),) for name in BERTS for kind in ("Self", "Cross")},
    **{f"transformers.models.{name}Attention": (GroupedHeads(),) for name in (*LLAMAS, *VITS)},
    **{f"transformers.models.{name}Attention": (OUT_PROJ,) for name in (*CLIPS, *BARTS, *WAV2VECS)},
    **{f"transformers.models.{name}Stack": (HeadsOfStack(T5_HEADS),) for name in T5S},
    "transformers.models.umt5.modeling_umt5.UMT5Attention": (T5_HEADS,),  # each has a bias of its own
    "transformers.models.gptj.modeling_gptj.GPTJAttention": (OUT_PROJ,),
    "transformers.models.gpt_neo.modeling_gpt_neo.GPTNeoSelfAttention": (OUT_PROJ,),
    "transformers.models.falcon.modeling_falcon.FalconLinear": (Axis(), InFeatures()),
    "transformers.models.swin.modeling_swin.SwinAttention": (GroupedHeads(),),
    "transformers.models.segformer.modeling_segformer.SegformerAttention": (
        GroupedHeads(common=("sequence_reduction",)),
    ),
    "transformers.models.videomae.modeling_videomae.VideoMAESelfAttention": (InnerHeads(),),
    "transformers.models.detr.modeling_detr.DetrSelfAttention": (GroupedHeads(),),
    "transformers.models.detr.modeling_detr.DetrCrossAttention": (GroupedHeads(),),
}
"""The elastic sizes by the class of a module, or by its name with its module. Classes of one's own can be entered."""


def qualified(kind: type) -> str:
    """The name of a class with its module, by which a class is known whose package is not imported.

    Args:
        kind: The class.

    Example:
        >>> qualified(nn.Linear)
        'torch.nn.modules.linear.Linear'
    """
    return f"{kind.__module__}.{kind.__qualname__}"


def axes_of(module: nn.Module) -> dict[str, Axis]:
    """The sizes of a module that can be elastic, by name.

    Args:
        module: The module.

    Raises:
        ValueError: There is none: its class is unknown; a subclass computes with more than the class of PyTorch does;
            or its parameters are computed or not yet made.

    Example:
        >>> list(axes_of(nn.Linear(4, 8)))
        ['out_features', 'out_halves', 'in_features', 'in_halves']
    """
    kind, name = _kind(module), told(module)
    if kind is None:
        known = [each.__name__ for each in AXES if isinstance(each, type)]
        raise ValueError(f"a {name} cannot be elastic: use one of {listed(known)}")
    if any(map(is_lazy, module.parameters())):
        raise ValueError(f"a {name} without shapes cannot be elastic yet: run the network once before")
    entry = kind if kind in AXES else qualified(kind)
    try:
        axes = {axis.name: axis for axis in AXES[entry] if axis.of(module)}
    except AttributeError as error:  # of a part that was exchanged for one of another class
        raise ValueError(f"a {name} whose parts are not the usual ones cannot be elastic: {error}") from None
    refuse_other_computation(f"a {name}", module, axes.values())
    return axes


def told(module: nn.Module) -> str:
    """The name of a module's class for messages; with its module where a class of PyTorch has the same name.

    Args:
        module: The module.

    Example:
        >>> told(nn.Linear(4, 8)), told(type("Linear", (nn.Module,), {"__module__": "peft.tuners.lora.layer"})())
        ('Linear', 'peft.tuners.lora.layer.Linear')
    """
    kind = type(module)
    is_taken = any(isinstance(each, type) and each.__name__ == kind.__name__ for each in AXES)
    return qualified(kind) if is_taken and kind not in AXES else kind.__name__


def refuse_other_computation(owner: str, module: nn.Module, axes: Iterable[Axis]) -> None:
    """Refuse a module that computes otherwise than its kind does with slices of its parameters, or has such a part.

    Args:
        owner: The module, for the message.
        module: The module.
        axes: Its sizes.

    Raises:
        ValueError: It has a forward pass of its own, or computes a weight; or a part does that has the sizes, too.

    Example:
        >>> linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
        >>> refuse_other_computation("a Linear", linear, [Axis()])
        Traceback (most recent call last):
            ...
        ValueError: a Linear with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic: remove \
that before
    """
    changes = [change for axis in axes if (change := axis.change(module, axis.full(module))) != Change()]
    for each, own_change in chain.from_iterable(change.of(module) for change in changes):
        told_owner = owner if each is module else f"a {told(each)} in {owner}"
        kind: Any = _kind(each)
        own: Any = type(each).forward
        if kind is not None and own is not kind.forward:
            raise ValueError(
                f"{told_owner} has a forward pass of its own, which may use its parameters otherwise than"
                f" {kind.__name__}: if slices of them will do, enter it in advnas_lightning.space.elastic.kinds.AXES"
            )
        refuse_computed(told_owner, each, [name for name in own_change.views if getattr(each, name, each) is not None])


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of a module, or one that it inherits from, that has an entry in the table."""
    return next((kind for kind in type(module).__mro__ if kind in AXES or qualified(kind) in AXES), None)
