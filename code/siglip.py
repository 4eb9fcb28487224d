"""A SigLIP (Zhai et al., ICCV 2023): features are read by an attention pool, and there is no CLS.

The network of the embedded SigLIP-emoji, in the layout of transformers' `SiglipModel`, which takes
its weights too. It is explained as anybody's network is (`recording/`).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model import patch_grid
from preprocessing import OPENAI, Preprocessing

EPSILON = 1e-6  # of all normalisations


def mlp(width: int, hidden: int) -> nn.Module:
    layers = nn.Module()
    layers.fc1, layers.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
    return layers


def through_mlp(layers: nn.Module, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    return layers.fc2(F.gelu(layers.fc1(x), approximate="tanh"))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        answer = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(answer.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(width, EPSILON) for _ in range(2))
        self.self_attn = SelfAttention(width, heads)
        self.mlp = mlp(width, 4 * width)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + through_mlp(self.mlp, self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        for block in self.layers:
            x = block(x)
        return x


class AttentionPool(nn.Module):
    """A learned query, the probe, reads all tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width, EPSILON)
        self.mlp = mlp(width, 4 * width)

    def forward(self, x: Float[Tensor, "image token width"]) -> Float[Tensor, "image width"]:
        probe = self.probe.expand(len(x), -1, -1)
        read = self.attention(probe, x, x, need_weights=False)[0][:, 0]
        return read + through_mlp(self.mlp, self.layernorm(read))


class ImageTower(nn.Module):
    preprocessing: Preprocessing = OPENAI  # of the pictures it reads

    def __init__(self, side: int, patch: int, width: int, heads: int, layers: int):
        super().__init__()
        self.input_resolution, self.patch_size, self.output_dim = side, patch, width
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch)
        self.embeddings.position_embedding = nn.Embedding((side // patch) ** 2, width)
        self.encoder = Encoder(width, heads, layers)
        self.post_layernorm = nn.LayerNorm(width, EPSILON)
        self.head = AttentionPool(width, heads)

    def grid(self, images: Float[Tensor, "image 3 height width"]) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(images, self.patch_size)

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image feature"]:
        if self.grid(images) != (self.input_resolution // self.patch_size,) * 2:
            raise ValueError(
                f"this model reads pictures of {self.input_resolution} x {self.input_resolution}; "
                f"got {list(images.shape)}"
            )
        return self.encode(images, self.embeddings.position_embedding.weight)

    def encode(
        self,
        images: Float[Tensor, "image 3 height width"],
        positions: Float[Tensor, "token width"],
    ) -> Float[Tensor, "image feature"]:
        """With positions of the size of their grid."""
        patches = self.embeddings.patch_embedding(images).flatten(2).mT
        return self.head(self.post_layernorm(self.encoder(patches + positions)))


class TextTower(nn.Module):
    """All tokens attend to all, padding included, and the features are read from the last place."""

    def __init__(
        self, vocabulary: int, length: int, width: int, heads: int, layers: int, features: int
    ):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.token_embedding = nn.Embedding(vocabulary, width)
        self.embeddings.position_embedding = nn.Embedding(length, width)
        self.encoder = Encoder(width, heads, layers)
        self.final_layer_norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, features)

    def forward(self, tokens: Int[Tensor, "text token"]) -> Float[Tensor, "text feature"]:
        positions = self.embeddings.position_embedding.weight
        x = self.encoder(self.embeddings.token_embedding(tokens) + positions)
        return self.head(self.final_layer_norm(x)[:, -1])


class SigLIP(nn.Module):
    """Both towers; heads are 64 wide.

    Features of images are as wide as the image tower. With unit features, the logit of image and
    text is exp(logit_scale) times their scalar product, plus logit_bias.
    """

    def __init__(
        self,
        image_resolution: int,
        vision_layers: int,
        vision_width: int,
        vision_patch_size: int,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_layers: int,
    ):
        super().__init__()
        self.context_length = context_length
        self.vision_model = ImageTower(
            image_resolution, vision_patch_size, vision_width, vision_width // 64, vision_layers
        )
        self.text_model = TextTower(
            vocab_size,
            context_length,
            transformer_width,
            transformer_width // 64,
            transformer_layers,
            vision_width,
        )
        for embedding in self.text_model.embeddings.children():
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.vision_model.embeddings.position_embedding.weight, std=0.02)
        self.logit_scale = nn.Parameter(torch.tensor([10.0]).log())
        self.logit_bias = nn.Parameter(torch.tensor([-10.0]))

    @property
    def visual(self) -> ImageTower:
        return self.vision_model

    @property
    def dtype(self) -> torch.dtype:
        return self.logit_scale.dtype

    def encode_image(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image feature"]:
        return self.vision_model(images.to(self.dtype))

    def encode_text(self, tokens: Int[Tensor, "text token"]) -> Float[Tensor, "text feature"]:
        """Features of tokens, start and end among them, padded with zeros to any length that holds
        them. ValueError for a text that is longer than the context.
        """
        missing = self.context_length - tokens.shape[1]
        if missing < 0 and tokens[:, missing:].any():
            raise ValueError(
                f"a text has more tokens than the context of this model, {self.context_length}: "
                f"tokenize(texts, context_length={self.context_length}) says which"
            )
        return self.text_model(F.pad(tokens, (0, missing)))


def build_siglip(weights: Mapping[str, Tensor]) -> SigLIP:
    """The network that weights are of, in evaluation mode."""
    patches = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    text = weights["text_model.embeddings.position_embedding.weight"]
    towers = [
        {name.split(".")[3] for name in weights if name.startswith(f"{tower}.encoder.layers.")}
        for tower in ("vision_model", "text_model")
    ]
    model = SigLIP(
        round(len(positions) ** 0.5) * patches.shape[-1],
        len(towers[0]),
        patches.shape[0],
        patches.shape[-1],
        *text.shape[:1],
        len(weights["text_model.embeddings.token_embedding.weight"]),
        text.shape[1],
        len(towers[1]),
    )
    model.load_state_dict(weights)
    return model.eval()
