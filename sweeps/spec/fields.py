"""What a field of `RunConfig` decides where runs are compared, and its short name: to be looked at for a new field."""

# In labels.
SHORT_NAMES = {
    "learning_rate": "lr",
    "warmup_ratio": "warmup",
    "weight_decay": "decay",
    "gradient_accumulation_steps": "accum",
}

# Columns of a report's tables, as which no field of a user's own config may be named; a test holds that it is all.
COLUMNS = frozenset(
    {"best_gap", "best_train_loss", "best_val_loss", "best_val_perplexity", "definition", "device", "duration_seconds",
     "end_time", "eval_gap", "eval_train_loss", "eval_train_loss_standard_error", "eval_train_tokens", "final_gap",
     "final_tokens_per_second", "final_train_loss", "final_val_loss", "final_val_perplexity", "fingerprint", "gap",
     "identity", "label", "model_vocab_size", "num_parameters", "num_seeds_done", "num_seeds_planned", "objective",
     "p_value", "rank", "run_id", "run_ids", "run_name", "setting", "standard_error", "start_time", "state", "step",
     "threads", "tied_with_best", "timestamp", "tokens_per_second", "train_grad_norm", "train_learning_rate",
     "train_loss", "train_skipped", "train_tokens_per_second", "trial", "val_loss", "val_loss_standard_error",
     "val_perplexity", "weights_sha256"}
)  # fmt: skip

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
