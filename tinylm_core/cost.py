"""What a model costs: its parameters."""

from tinylm_core.config import RunConfig


def num_parameters(config: RunConfig, vocab_size: int) -> int:
    """Trainable parameters of the model of a config, a shared matrix counted once."""
    d, f, b = config.d_model, config.d_ff or 4 * config.d_model, int(config.bias)
    attention = 4 * d * d + b * 4 * d
    feed_forward = 2 * d * f + b * (f + d)
    norms = 2 * (d + b * d)
    embeddings = vocab_size * d * (1 if config.tie_embeddings else 2) + config.max_seq_len * d
    return config.num_layers * (attention + feed_forward + norms) + (d + b * d) + embeddings
