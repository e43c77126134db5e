"""Text from a trained model. Knows nothing of how it was trained."""

import torch
from torch import Tensor

from tinylm_core.model import Past, TinyGPT


def generate(
    model: TinyGPT,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> list[int]:
    """`prompt` and `max_new_tokens` sampled IDs after it; the same seed gives the same IDs.

    temperature 0 takes the likeliest token; top_k keeps the k likeliest, top_p the fewest likeliest that together have
    that probability (Holtzman et al. 2020, arXiv 1904.09751). Beyond the context the model sees its last tokens.
    """
    (ids,) = generate_batch(
        model,
        prompt,
        [seed],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    return ids


def generate_batch(
    model: TinyGPT,
    prompt: list[int],
    seeds: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[list[int]]:
    """As `generate`, one sequence a seed, all in one batch: hardly slower than one.

    A model's logits are those of one sequence alone to rounding, which may choose another token now and then.
    """
    if not prompt:
        raise ValueError("prompt must hold at least one token")
    if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature={temperature} must be >= 0, top_k={top_k} at least 1, top_p={top_p} in (0, 1]")
    context = model.position_embedding.num_embeddings
    device = model.position_embedding.weight.device
    randoms = [torch.Generator().manual_seed(seed) for seed in seeds]
    sequences = [list(prompt) for _ in seeds]
    pasts = [Past() for _ in model.blocks]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for length in range(len(prompt), len(prompt) + max_new_tokens):
            if length <= context:
                unseen_BT = torch.tensor([ids[pasts[0].num_positions :] for ids in sequences], device=device)
                logits_BTV = model(unseen_BT, pasts)
            else:  # the window moves, and with it the position of every token in it
                logits_BTV = model(torch.tensor([ids[-context:] for ids in sequences], device=device))
            for ids, logits_V, random in zip(sequences, logits_BTV[:, -1].float().cpu(), randoms, strict=True):
                ids.append(sample(logits_V, temperature, top_k, top_p, random))
    model.train(was_training)
    return sequences


def sample(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, random: torch.Generator
) -> int:
    """One token ID from logits."""
    if temperature == 0:
        return int(logits_V.argmax())
    below_V = (logits_V - logits_V.max()).double()  # from its own maximum, so that no temperature overflows
    sorted_V, order_V = (below_V / temperature).sort(descending=True, stable=True)
    probabilities_V = sorted_V.softmax(-1)
    if top_k is not None:
        probabilities_V[top_k:] = 0
    if top_p is not None:
        before_V = probabilities_V.cumsum(-1) - probabilities_V
        probabilities_V[before_V >= top_p * probabilities_V.sum()] = 0
    return int(order_V[torch.multinomial(probabilities_V, 1, generator=random)])
