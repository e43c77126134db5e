"""TinyGPT: a decoder-only transformer (Radford et al. 2019). Knows no optimizer, no schedule and no data.

With `norm_first=False, activation="relu"` it computes what a stack of `torch.nn.TransformerEncoderLayer` with a causal
mask computes, from the same weights.

Shapes: B batch, T time, S time with the past, D width, H heads, K width of a head, F feed-forward width, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinylm_core.config import RunConfig
from tinylm_core.dropout import Dropout, MaskSource

# Up to here, on CPU, attention as two batched products beats scaled_dot_product_attention (1.3-2x a step at 64-128).
SHORT_CONTEXT = 256


@dataclass
class Past:
    """What one block keeps of the positions before, while text is generated: their keys and values."""

    kv: Tensor | None = None  # [2, B, H, T, K]

    @property
    def num_positions(self) -> int:
        return 0 if self.kv is None else self.kv.shape[3]

    def extend(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions so far, these included."""
        new_2BHTK = torch.stack((k_BHTK, v_BHTK))
        self.kv = new_2BHTK if self.kv is None else torch.cat((self.kv, new_2BHTK), dim=3)
        return self.kv[0], self.kv[1]


class TinyGPT(nn.Module):
    """Token IDs [B, T] → logits [B, T, V]; T is at most `config.max_seq_len`.

    In training dropout's masks are the same until `masks.reseed(seed, micro_batch)` says which come next.
    With `pasts`, one a block, the tokens are those after the ones that earlier calls with the same `pasts` were given:
    any number in the first call, then one at a time.
    """

    def __init__(self, config: RunConfig, vocab_size: int) -> None:
        super().__init__()
        self.masks = MaskSource()
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.max_seq_len, config.d_model)
        self.dropout = Dropout(config.dropout, self.masks)
        self.blocks = nn.ModuleList(Block(config, self.masks) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        for name, parameter in self.named_parameters():
            initialize(name, parameter, config.init_std)

    def forward(self, tokens_BT: Tensor, pasts: "list[Past] | None" = None) -> Tensor:
        first = pasts[0].num_positions if pasts else 0
        last = first + tokens_BT.shape[1]
        if tokens_BT.device.type == "cpu":
            positions_T = torch.arange(first, last, device=tokens_BT.device)
            x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(positions_T)
        else:
            # An embedding's gradient has a data race in CUDA's kernel for 1025 to 3072 tokens (pytorch PR 187687), in
            # deterministic mode too, where an index's is sorted.
            x_BTD = self.token_embedding.weight[tokens_BT] + self.position_embedding.weight[first:last]
        x_BTD = self.dropout(x_BTD)
        for i, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, pasts[i] if pasts else None)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV


def initialize(name: str, parameter: nn.Parameter, std: float) -> None:
    """Normal weights for matrices and embeddings, ones for norms, zeros for biases."""
    if parameter.dim() >= 2:
        nn.init.normal_(parameter, std=std)
    elif name.endswith("bias"):
        nn.init.zeros_(parameter)
    else:
        nn.init.ones_(parameter)


class Block(nn.Module):
    def __init__(self, config: RunConfig, masks: MaskSource) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm1 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = Attention(config, masks)
        self.norm2 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.feed_forward = FeedForward(config, masks)
        self.dropout = Dropout(config.dropout, masks)

    def forward(self, x_BTD: Tensor, past: Past | None = None) -> Tensor:
        if self.norm_first:  # Xiong et al. 2020, arXiv 2002.04745
            x_BTD = x_BTD + self.dropout(self.attention(self.norm1(x_BTD), past))
            x_BTD = x_BTD + self.dropout(self.feed_forward(self.norm2(x_BTD)))
        else:
            x_BTD = self.norm1(x_BTD + self.dropout(self.attention(x_BTD, past)))
            x_BTD = self.norm2(x_BTD + self.dropout(self.feed_forward(x_BTD)))
        return x_BTD


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: RunConfig, masks: MaskSource) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.dropout = Dropout(config.dropout, masks)
        T = min(config.max_seq_len, SHORT_CONTEXT)
        future_TT = torch.full((T, T), -math.inf).triu(1)
        self.register_buffer("future_TT", future_TT, persistent=False)
        self.future_TT: Tensor

    def forward(self, x_BTD: Tensor, past: Past | None = None) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_3BHTK = self.qkv(x_BTD).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if x_BTD.device.type == "cpu":
            qkv_3BHTK = qkv_3BHTK.contiguous()  # once, and not by each product
        q_BHTK, k_BHSK, v_BHSK = qkv_3BHTK
        if past is not None:
            k_BHSK, v_BHSK = past.extend(k_BHSK, v_BHSK)
        S = k_BHSK.shape[2]
        if x_BTD.device.type == "cpu" and S <= SHORT_CONTEXT:
            q_NTK, k_NSK, v_NSK = (heads.flatten(0, 1) for heads in (q_BHTK, k_BHSK, v_BHSK))  # N = B · H
            future_TS = self.future_TT[S - T : S, :S].to(q_NTK.dtype)
            scores_NTS = torch.baddbmm(future_TS, q_NTK, k_NSK.mT, alpha=q_NTK.shape[-1] ** -0.5)
            out_BHTK = (self.dropout(scores_NTS.softmax(-1)) @ v_NSK).view(q_BHTK.shape)
        else:
            p = self.dropout.p if self.training else 0.0
            # A single new position sees all.
            out_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, is_causal=S == T, dropout_p=p)
        out_BTD: Tensor = self.out(out_BHTK.transpose(1, 2).reshape(B, T, D))
        return out_BTD


class FeedForward(nn.Module):
    def __init__(self, config: RunConfig, masks: MaskSource) -> None:
        super().__init__()
        d_ff = config.d_ff or 4 * config.d_model
        self.up = nn.Linear(config.d_model, d_ff, bias=config.bias)
        self.down = nn.Linear(d_ff, config.d_model, bias=config.bias)
        self.dropout = Dropout(config.dropout, masks)
        self.activation = F.relu if config.activation == "relu" else F.gelu

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down(self.dropout(self.activation(self.up(x_BTD))))
        return out_BTD
