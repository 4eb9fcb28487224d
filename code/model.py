"""The CLIP network (Radford et al., 2021), in the state-dict layout of the official checkpoints.

Two towers share one kind of transformer block. A block computes its attention with the fused
kernel, unless it is being recorded: in evaluation mode with gradients enabled, that is whenever a
backward pass may follow, it keeps

    block.attn_probs   (batch * heads, tokens, tokens)   after the forward pass
    block.attn_grad    the same shape                    after the backward pass

They hold no computation graph alive: `attn_probs` is the tensor in the graph as long as that lives,
so that `torch.autograd.grad(score, [block.attn_probs])` works, and a detached one afterwards. Both
are None after a forward pass that records nothing, in training mode, under `torch.no_grad()`, while
exporting or tracing, and after maps were made (`saliency.py`).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from checks import is_plain, require_tensor
from preprocessing import OPENAI, Preprocessing

HEAD_WIDTH = 64  # of every transformer in every official CLIP
NOT_A_CLIP = "not a CLIP state dict in OpenAI's layout"


class LayerNorm(nn.LayerNorm):
    """Normalises in the precision of its own weights: float32 in a half-precision model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {
    "quickgelu": QuickGELU,  # OpenAI's
    "gelu": nn.GELU,  # most of OpenCLIP's
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}


class Attention(nn.Module):
    """Multi-head self-attention with the parameters of `nn.MultiheadAttention`, batch first."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def split(
        self, x: Float[Tensor, "batch token three_width"]
    ) -> tuple[Float[Tensor, "batch head token depth"], ...]:
        """Cut projected tokens (one, two or three projections wide) into heads."""
        parts = x.shape[-1] // self.out_proj.in_features
        x = x.unflatten(-1, (parts, self.heads, -1))
        return x.permute(2, 0, 3, 1, 4).unbind()

    def queries_keys_values(
        self, x: Float[Tensor, "batch token width"]
    ) -> tuple[Float[Tensor, "batch head token depth"], ...]:
        return self.split(F.linear(x, self.in_proj_weight, self.in_proj_bias))

    def cls_query_keys_values(
        self, x: Float[Tensor, "batch token width"]
    ) -> tuple[Float[Tensor, "batch head _ depth"], ...]:
        """As `queries_keys_values`, but only the first token asks."""
        width = x.shape[-1]
        query_weight, key_value_weight = self.in_proj_weight.split([width, 2 * width])
        query_bias, key_value_bias = self.in_proj_bias.split([width, 2 * width])
        query = self.split(F.linear(x[:, :1], query_weight, query_bias))
        return query + self.split(F.linear(x, key_value_weight, key_value_bias))

    @staticmethod
    def probabilities(
        q: Float[Tensor, "batch head query depth"],
        k: Float[Tensor, "batch head token depth"],
        causal: bool = False,
    ) -> Float[Tensor, "batch head query token"]:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return scores.softmax(-1)

    def forward(
        self, x: Float[Tensor, "batch token width"], attend: Callable[..., Tensor]
    ) -> Float[Tensor, "batch token width"]:
        """What the heads write to the stream; `attend` mixes values by queries and keys."""
        return self.merge(attend(*self.queries_keys_values(x)))

    def merge(self, x: Float[Tensor, "batch head token depth"]) -> Float[Tensor, "batch token _"]:
        """Join the heads and project back to the width of the stream."""
        return self.out_proj(x.transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        activation: str = "quickgelu",
        mlp_width: int | None = None,
    ):
        super().__init__()
        mlp_width = mlp_width or 4 * width
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width),
                gelu=ACTIVATIONS[activation](),
                c_proj=nn.Linear(mlp_width, width),
            )
        )
        self.ln_2 = LayerNorm(width)
        self.causal = causal
        self.recorded: Recorded | None = None

    @property
    def attn_probs(self) -> Float[Tensor, "batch*head token token"] | None:
        return self.recorded and self.recorded.attention

    @attn_probs.setter
    def attn_probs(self, attention: Tensor | None) -> None:
        self.recorded = None if attention is None else Recorded(attention)

    @property
    def attn_grad(self) -> Float[Tensor, "batch*head token token"] | None:
        return self.recorded and self.recorded.gradient

    @attn_grad.setter
    def attn_grad(self, gradient: Tensor | None) -> None:
        if self.recorded:
            self.recorded.gradient = gradient

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        x = x + self.attn(self.ln_1(x), self.attend)
        return x + self.mlp(self.ln_2(x))

    def finish(
        self, x: Float[Tensor, "batch token width"], mixed: Float[Tensor, "batch head token depth"]
    ) -> Float[Tensor, "batch token width"]:
        """What follows the attention: `mixed` are the values as each token's heads mix them."""
        x = x + self.attn.merge(mixed)
        return x + self.mlp(self.ln_2(x))

    def attend(
        self,
        q: Float[Tensor, "batch head token depth"],
        k: Float[Tensor, "batch head token depth"],
        v: Float[Tensor, "batch head token depth"],
    ) -> Float[Tensor, "batch head token depth"]:
        self.recorded = None
        if not is_recording(self):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        attention = self.record(self.attn.probabilities(q, k, self.causal))
        return torch.bmm(attention, v.flatten(0, 1)).view_as(q)

    @torch.compiler.disable
    def record(
        self, probabilities: Float[Tensor, "batch head token token"]
    ) -> Float[Tensor, "batch*head token token"]:
        """Keep attention now and its gradient when the backward pass reaches it.

        What is returned, and nothing else, must go on in the forward pass.
        """
        flat = probabilities.flatten(0, 1)
        if not flat.requires_grad:  # a model whose parameters are all frozen
            flat.requires_grad_()
        self.recorded = Recorded(flat)
        flat.register_hook(self.recorded.keep_gradient)
        return flat


class Recorded:
    """The attention of one forward pass, and its gradient once a backward pass has reached it.

    A graph that is still alive holds its own tensor; here it is held weakly.
    """

    def __init__(self, attention: Tensor):
        self.in_graph: TensorWeakRef | None = TensorWeakRef(attention)
        self.detached = attention.detach()
        self.gradient: Tensor | None = None

    @property
    def attention(self) -> Tensor:
        alive = self.in_graph and self.in_graph()
        return self.detached if alive is None else alive

    def keep_gradient(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach()

    def __getstate__(self) -> dict:
        """Copies and files are without the graph."""
        return {**vars(self), "in_graph": None}


# Whether attention is seen from outside, call by call (`recording/attention.py`): then blocks keep
# nothing, and call the fused kernel.
ATTENTION_IS_SEEN: ContextVar[bool] = ContextVar("ATTENTION_IS_SEEN", default=False)


def is_recording(module: nn.Module) -> bool:
    return (
        torch.is_grad_enabled()
        and not module.training
        and not is_exporting()
        and not ATTENTION_IS_SEEN.get()
    )


def is_exporting() -> bool:
    """Whether a program is being written down that will run without this one."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def has_values(x: Tensor) -> bool:
    """Whether a decision may be taken by the values of a tensor."""
    return not (x.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing())


class Transformer(nn.Module):
    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        causal: bool = False,
        activation: str = "quickgelu",
        mlp_width: int | None = None,
    ):
        super().__init__()
        self.width = width
        self.layers = layers
        block = partial(ResidualAttentionBlock, width, heads, causal, activation, mlp_width)
        self.resblocks = nn.Sequential(*(block() for _ in range(layers)))

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        return self.resblocks(x)


def patch_grid(images: Tensor, stride: int) -> tuple[int, int]:
    """Rows and columns of the grid that images [B, 3, H, W] make, or an error that says why not."""
    require_tensor(
        images, "images must be a tensor [batch, 3, height, width] as preprocess makes it"
    )
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            "images must be a float tensor [batch, 3, height, width] as preprocess makes it "
            f"(add the batch axis with .unsqueeze(0)); got {images.dtype} {list(images.shape)}"
        )
    height, width = images.shape[-2:]
    if height < stride or width < stride or height % stride or width % stride:
        raise ValueError(
            f"image sides must be positive multiples of {stride} for this network; "
            f"got {height} x {width}"
        )
    return height // stride, width // stride


def require_token_ids(text: Tensor, vocabulary: int, longest: int) -> None:
    """Raise TypeError or ValueError unless `text` is what `tokenize` makes for this model."""
    wanted = 'texts are given as token ids [text, token], encode_text(tokenize(["a horse"]))'
    require_tensor(text, wanted)
    if not has_values(text):
        return
    if text.dtype not in (torch.int32, torch.int64) or text.ndim != 2 or not text.numel():
        raise ValueError(f"{wanted}; got {text.dtype} {list(text.shape)}")
    if text.min() < 0 or text.max() >= vocabulary:
        raise ValueError(
            f"token ids of this model are 0 to {vocabulary - 1}; got {text.min()} to {text.max()}"
        )
    if (text.amax(1) < vocabulary - 1).any():
        raise ValueError(
            f"a text has no end token, id {vocabulary - 1}: features are read there "
            "(tokenize with truncate=True keeps it where a text is cut)"
        )
    beyond = text[:, longest:]
    padded = ((beyond == 0) | (beyond == vocabulary - 1)).all()
    if not padded or text.argmax(1).max() >= longest:
        raise ValueError(
            f"this model reads {longest} tokens of a text; got {text.shape[1]} "
            f"(tokenize(texts, {longest}, truncate=True) cuts them)"
        )


def fit_positions(
    positions: Float[Tensor, "1+native width"], grid: tuple[int, int]
) -> Float[Tensor, "1+token width"]:
    """Position embeddings for `grid`; the native (square) grid gets them untouched.

    Other grids interpolate them bicubically, as is usual since ViT (Dosovitskiy et al., 2021).
    """
    side = math.isqrt(len(positions) - 1)
    if grid == (side, side):
        return positions
    first, square = positions[:1], positions[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square.float(), size=grid, mode="bicubic", align_corners=False)
    return torch.cat([first, resized.to(first.dtype).flatten(2)[0].T])


class VisionTransformer(nn.Module):
    preprocessing: Preprocessing = OPENAI  # of the pictures it reads

    def __init__(
        self,
        input_resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        activation: str = "quickgelu",
        mlp_width: int | None = None,
    ):
        super().__init__()
        self.input_resolution = input_resolution
        self.patch_size = patch_size
        self.output_dim = output_dim
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        tokens = (input_resolution // patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            width, layers, heads, activation=activation, mlp_width=mlp_width
        )
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image feature"]:
        return self.project(self.transformer(self.embed(images))[:, 0])

    def grid(self, images: Float[Tensor, "image 3 height width"]) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return patch_grid(images, self.patch_size)

    def embed(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image token width"]:
        """What the first block reads: CLS, then the patches row by row."""
        grid = self.grid(images)
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).mT
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)
        return self.ln_pre(
            torch.cat([cls, patches], 1) + fit_positions(self.positional_embedding, grid)
        )

    def project(self, cls: Float[Tensor, "image width"]) -> Float[Tensor, "image feature"]:
        """From the CLS token after the last block to the features."""
        return self.ln_post(cls) @ self.proj


class Bottleneck(nn.Module):
    """A residual block whose stride is an average pool, so that nothing is skipped over."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1):
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(inputs, outputs, 1, bias=False)),
                        ("1", nn.BatchNorm2d(outputs)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.avgpool(self.relu2(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + (x if self.downsample is None else self.downsample(x)))


class AttentionPool2d(nn.Module):
    """Attention of the mean token to every cell of the grid, and nothing else (one query)."""

    def __init__(self, side: int, width: int, heads: int, output_dim: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim)
        self.heads = heads

    def forward(
        self,
        x: Float[Tensor, "image channel row column"],
        shifts: Float[Tensor, "image shift channel"] | None = None,
    ) -> Float[Tensor, "image shift feature"] | Float[Tensor, "image feature"]:
        """The features of x, or those of x with each of the shifts added to all of its cells."""
        positions = fit_positions(self.positional_embedding, tuple(x.shape[-2:]))
        if shifts is not None:
            return self.pool(x, positions, shifts)
        if all(map(is_plain, self.children())):
            return self.pool(x, positions, x.new_zeros(len(x), 1, x.shape[1])).squeeze(1)
        return self.attend(x, positions).squeeze(1)

    def attend(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
    ) -> Float[Tensor, "image 1 feature"]:
        """The attention as it is defined: every projection is called, whatever stands there."""
        mixed = F.scaled_dot_product_attention(*self.query_keys_values(x, positions))
        return self.merge(mixed)

    def query_keys_values(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
    ) -> tuple[
        Float[Tensor, "image head 1 depth"],
        Float[Tensor, "image head 1+cell depth"],
        Float[Tensor, "image head 1+cell depth"],
    ]:
        tokens = self.tokens(x, positions)
        query, key, value = self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens)
        return tuple(map(self.by_head, (query, key, value)))

    def values(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
    ) -> Float[Tensor, "image head 1+cell depth"]:
        return self.by_head(self.v_proj(self.tokens(x, positions)))

    def tokens(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
    ) -> Float[Tensor, "image 1+cell channel"]:
        cells = x.flatten(2).mT
        return torch.cat([cells.mean(1, keepdim=True), cells], 1) + positions

    def by_head(
        self, projected: Float[Tensor, "image token channel"]
    ) -> Float[Tensor, "image head token depth"]:
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(
        self, heads: Float[Tensor, "image head token depth"]
    ) -> Float[Tensor, "image token feature"]:
        return self.c_proj(heads.transpose(1, 2).flatten(2))

    def pool(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
        shifts: Float[Tensor, "image shift channel"],
    ) -> Float[Tensor, "image shift feature"]:
        # Only the mean token asks, so W_k goes to the query's side and W_v behind the mean: exact,
        # and no key or value is computed for any cell (that takes 20 times the arithmetic in RN50).
        # Cells are large: every product takes them as they are, without positions, mean or shift,
        # whose parts are added behind.
        cells = x.flatten(2)
        own, others = self.weights(x, positions, shifts).split([1, cells.shape[2]], -1)
        spread = others + own / cells.shape[2]  # the mean token is made of cells too
        mixed = (spread.flatten(1, 2) @ cells.mT).unflatten(1, spread.shape[1:3])
        mixed = mixed + torch.cat([own, others], -1) @ positions + shifts.unsqueeze(2)
        v_weight = self.v_proj.weight.unflatten(0, (self.heads, -1))
        values = torch.einsum("bshc,hdc->bshd", mixed, v_weight).flatten(2)
        if self.v_proj.bias is not None:
            values = values + self.v_proj.bias
        return self.c_proj(values)

    def weights(
        self,
        x: Float[Tensor, "image channel row column"],
        positions: Float[Tensor, "1+cell channel"],
        shifts: Float[Tensor, "image shift channel"],
    ) -> Float[Tensor, "image shift head 1+cell"]:
        """What the mean token attends to, W_k on the query's side. What is the same for all tokens
        of a head, b_k and the shift's part of the scores, the softmax does not see.
        """
        cells = x.flatten(2)
        mean = cells.sum(2) / cells.shape[2] + positions[0]
        query = self.q_proj(mean.unsqueeze(1) + shifts).unflatten(-1, (self.heads, -1))
        k_weight = self.k_proj.weight.unflatten(0, (self.heads, -1))
        query = torch.einsum("bshd,hdc->bshc", query * query.shape[-1] ** -0.5, k_weight)
        scores = (query.flatten(1, 2) @ cells).unflatten(1, query.shape[1:3])
        scores = torch.cat([scores.mean(-1, keepdim=True), scores], -1) + query @ positions.T
        return scores.softmax(-1)


class ModifiedResNet(nn.Module):
    """ResNet-D with a three-convolution stem, anti-aliased strides and an attention pool."""

    stride = 32
    preprocessing: Preprocessing = OPENAI  # of the pictures it reads

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        output_dim: int,
        heads: int,
        input_resolution: int,
        width: int,
    ):
        super().__init__()
        self.input_resolution = input_resolution
        self.output_dim = output_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for stage, blocks in enumerate(layers):
            planes, stride = width * 2**stage, 1 if stage == 0 else 2
            layer = []
            for block in range(blocks):
                layer.append(Bottleneck(channels, planes, stride if block == 0 else 1))
                channels = planes * Bottleneck.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.attnpool = AttentionPool2d(
            input_resolution // self.stride, channels, heads, output_dim
        )

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image feature"]:
        return self.attnpool(self.trunk(images))

    def grid(self, images: Float[Tensor, "image 3 height width"]) -> tuple[int, int]:
        """Rows and columns of the grid that the attention pool reads."""
        return patch_grid(images, self.stride)

    def trunk(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image channel row column"]:
        """What the attention pool reads: the activations of `layer4`."""
        self.grid(images)
        x = images.to(self.conv1.weight.dtype)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.avgpool(self.relu3(self.bn3(self.conv3(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class CLIP(nn.Module):
    """Both towers. `vision_layers` is a number of blocks (ViT) or four of them (ResNet).

    vision_heads: of each block, or of a ResNet's attention pool; by default, and for None as
        `transformer_heads`, as many as are 64 wide.
    activation: between the layers of each MLP, one of `ACTIVATIONS`; a ResNet's image tower has no
        MLP.
    vision_mlp_width, transformer_mlp_width: of the hidden layer of each MLP; by default four times
        the width.

    Raises ValueError for another activation, and for heads that do not divide their width.
    """

    def __init__(
        self,
        embed_dim: int,
        # vision
        image_resolution: int,
        vision_layers: int | tuple[int, int, int, int],
        vision_width: int,
        vision_patch_size: int | None,
        # text
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int | None,
        transformer_layers: int,
        *,
        vision_heads: int | None = None,
        activation: str = "quickgelu",
        vision_mlp_width: int | None = None,
        transformer_mlp_width: int | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
        self.context_length = context_length
        self.vocab_size = vocab_size
        transformer_heads = head_count(transformer_width, transformer_heads, "text")
        if isinstance(vision_layers, int):
            heads = head_count(vision_width, vision_heads, "image")
            self.visual = VisionTransformer(
                image_resolution,
                vision_patch_size,
                vision_width,
                vision_layers,
                heads,
                embed_dim,
                activation,
                vision_mlp_width,
            )
        else:
            heads = head_count(vision_width * 32, vision_heads, "image")
            self.visual = ModifiedResNet(
                tuple(vision_layers), embed_dim, heads, image_resolution, vision_width
            )
        self.transformer = Transformer(
            transformer_width,
            transformer_layers,
            transformer_heads,
            True,
            activation,
            transformer_mlp_width,
        )
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialise()

    def initialise(self) -> None:
        """Draw initial parameters: residual branches start small, in proportion to the depth."""
        for tower in [self.transformer, getattr(self.visual, "transformer", None)]:
            if tower is None:
                continue
            residual = tower.width**-0.5 * (2 * tower.layers) ** -0.5
            for block in tower.resblocks:
                nn.init.normal_(block.attn.out_proj.weight, std=residual)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * tower.width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=residual)
        if isinstance(self.visual, ModifiedResNet):
            pool = self.visual.attnpool
            for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
                nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
            for module in self.visual.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(
        self, image: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image feature"]:
        return self.visual(image)

    def encode_text(self, text: Int[Tensor, "text token"]) -> Float[Tensor, "text feature"]:
        """Features of token ids as `tokenize` makes them, on any device.

        They are read at the end-of-text token: what follows it, padding of any kind, has no effect.
        """
        require_token_ids(text, self.vocab_size, self.context_length)
        text = text[:, : self.context_length].to(self.positional_embedding.device)
        end = text.argmax(-1)  # end-of-text has the largest id of all
        if has_values(text) and not is_recording(self) and is_plain(self.transformer):
            # What follows the end cannot influence it (the attention is causal): skip it.
            text = text[:, : int(end.max()) + 1]
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(x.shape[0], device=x.device), end] @ self.text_projection

    def forward(
        self, image: Float[Tensor, "image 3 height width"], text: Int[Tensor, "text token"]
    ) -> tuple[Float[Tensor, "image text"], Float[Tensor, "text image"]]:
        """Logits: the scaled cosine of every image with every text, and its transpose."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.T
        return logits, logits.T


def convert_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast `model` in place. At half precision its normalisations stay float32, as OpenAI's do."""
    model.to(dtype)
    if dtype.itemsize < torch.float32.itemsize:
        for module in model.modules():
            if isinstance(module, LayerNorm | nn.BatchNorm2d):
                module.float()
    return model


def build_model(
    state_dict: Mapping[str, Tensor],
    *,
    activation: str = "quickgelu",
    heads: int | tuple[int | None, int | None] | None = None,
) -> CLIP:
    """The float32 network, in evaluation mode, whose parameters are `state_dict`.

    Its architecture is deduced from names and shapes, but for what they do not tell:

    activation: "quickgelu", as OpenAI's function of this name has it, "gelu" or "gelu_tanh".
    heads: of the image tower (a ResNet's attention pool), or of the image and the text tower; by
        default, and for None, as many as are 64 wide, as in OpenAI's.

    Raises ValueError if names and shapes are not a CLIP's, or heads do not divide their width.
    """
    vision_heads, text_heads = heads if isinstance(heads, tuple | list) else (heads, None)
    arguments = architecture(state_dict)
    model = _empty_model(arguments, vision_heads, text_heads, activation=activation)
    weights = {name: tensor.detach().clone() for name, tensor in state_dict.items()}
    model.load_state_dict(weights, assign=True)
    return model.float().requires_grad_().eval()


def architecture(state_dict: Mapping[str, Tensor]) -> dict:
    """The arguments of `CLIP` that names and shapes tell: all but the heads and the activation.

    Raises ValueError unless they are all those of a CLIP with these arguments.
    """
    try:
        width, embed_dim = state_dict["text_projection"].shape
        if "visual.proj" in state_dict:
            vision_width, _, vision_patch_size, _ = state_dict["visual.conv1.weight"].shape
            vision_mlp_width = _mlp_width(state_dict, "visual.")
            vision_layers = _count(state_dict, "visual.transformer.resblocks.")
            cells = len(state_dict["visual.positional_embedding"]) - 1
            cell = vision_patch_size
        else:
            vision_layers = tuple(_count(state_dict, f"visual.layer{i}.") for i in (1, 2, 3, 4))
            vision_width = len(state_dict["visual.layer1.0.conv1.weight"])
            vision_patch_size = vision_mlp_width = None
            cells = len(state_dict["visual.attnpool.positional_embedding"]) - 1
            cell = ModifiedResNet.stride
        arguments = {
            "embed_dim": embed_dim,
            "image_resolution": math.isqrt(cells) * cell,
            "vision_layers": vision_layers,
            "vision_width": vision_width,
            "vision_patch_size": vision_patch_size,
            "context_length": len(state_dict["positional_embedding"]),
            "vocab_size": len(state_dict["token_embedding.weight"]),
            "transformer_width": width,
            "transformer_layers": _count(state_dict, "transformer.resblocks."),
            "vision_mlp_width": vision_mlp_width,
            "transformer_mlp_width": _mlp_width(state_dict, ""),
        }
    except KeyError as missing:
        raise ValueError(f"{NOT_A_CLIP}: it has no {missing}") from missing
    except (TypeError, ValueError) as error:  # numbers of axes, a table without rows
        raise ValueError(f"{NOT_A_CLIP}: shapes that no CLIP has ({error})") from error
    layers = (vision_layers,) if isinstance(vision_layers, int) else vision_layers
    layers = (*layers, arguments["transformer_layers"])
    sizes = [size for size in arguments.values() if isinstance(size, int)]
    if min(*sizes, *layers) < 1 or max(sizes) > 2**24 or max(layers) > 1000:
        raise ValueError(f"{NOT_A_CLIP}: shapes that no CLIP has ({arguments})")
    _require_shapes(state_dict, _shapes(**arguments))
    return arguments


@lru_cache(maxsize=2)
def _shapes(**arguments: Any) -> dict[str, torch.Size]:
    """Names and shapes in the state dict of a CLIP; they are the same for all heads."""
    state_dict = _empty_model(arguments, 1, 1).state_dict()
    return {name: tensor.shape for name, tensor in state_dict.items()}


def _empty_model(
    arguments: dict, vision_heads: int | None, text_heads: int | None, **options: str
) -> CLIP:
    """A network on the meta device: shapes without memory."""
    with torch.device("meta"):
        return CLIP(**arguments, vision_heads=vision_heads, transformer_heads=text_heads, **options)


def head_count(width: int, heads: int | None, tower: str) -> int:
    """`heads`, or as many as are 64 wide; ValueError unless they divide the tower's width."""
    if heads is None and width % HEAD_WIDTH == 0:
        return width // HEAD_WIDTH
    if not isinstance(heads, int) or heads < 1 or width % heads:
        what = f"heads {HEAD_WIDTH} wide" if heads is None else f"{heads} heads"
        raise ValueError(
            f"the {tower} tower is {width} wide, which {what} do not divide; these numbers of "
            f"heads do: {divisors(width)}"
        )
    return heads


def divisors(width: int) -> str:
    """The numbers of heads that divide `width`, and are at least 16 wide."""
    return ", ".join(str(n) for n in range(1, width // 16 + 1) if width % n == 0) or "1"


def _require_shapes(given: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    problems = {
        "it has no": [name for name in wanted if name not in given],
        "there is no place for": [name for name in given if name not in wanted],
        "of another shape are": [
            f"{name} {list(given[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in given and given[name].shape != shape
        ],
    }
    found = [f"{problem} {some(names)}" for problem, names in problems.items() if names]
    if found:
        raise ValueError(f"{NOT_A_CLIP}: {'; '.join(found)}")


def some(names: list) -> str:
    """The first few names."""
    return ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")


def _mlp_width(state_dict: Mapping[str, Tensor], tower: str) -> int:
    """Of the first block, which the others must equal."""
    return len(state_dict[f"{tower}transformer.resblocks.0.mlp.c_fc.bias"])


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are under `prefix`."""
    return len(
        {name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)}
    )
