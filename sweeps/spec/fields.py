"""What a field of `RunConfig` decides where runs are compared, and its short name: to be looked at for a new field."""

# In labels.
SHORT_NAMES = {
    "learning_rate": "lr",
    "warmup_ratio": "warmup",
    "weight_decay": "decay",
    "gradient_accumulation_steps": "accum",
}

# What decides which tokens an optimizer step and an evaluation see: a common budget needs their values listed.
BUDGET_FIELDS = ("batch_size", "gradient_accumulation_steps", "max_seq_len", "train_tokens", "num_evals")

# How long a run trains, of a trainer of one's own too: the first that a config has.
LENGTH_FIELDS = ("train_tokens", "num_steps")

# How many tokens an optimizer step has: where one differs, so does what a step is.
STEP_FIELDS = ("batch_size", "gradient_accumulation_steps", "max_seq_len")

# Settings that differ in one of these do not see the same tokens in the same order (law 4).
MATCHING_FIELDS = frozenset(
    {"data", "tokenizer", "vocab_size", "max_seq_len", "stride", "val_ratio", "max_tokens", "batch_size",
     "train_tokens", "num_evals", "eval_tokens"}
)  # fmt: skip

# In one of these a token is another one, and so is a loss per token.
UNIT_FIELDS = ("data", "tokenizer", "vocab_size")

# These say of which part of the text a loss is the mean.
MEASURE_FIELDS = ("val_ratio", "eval_tokens")

# What decides how long a token takes.
PACE_FIELDS = (
    "data", "tokenizer", "vocab_size", "max_seq_len", "batch_size", "d_model", "d_ff", "num_layers", "num_heads",
    "precision", "compile", "num_evals", "eval_tokens",
)  # fmt: skip
