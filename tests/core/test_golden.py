"""The first steps of two small runs in float64, to nine digits.

When this fails and nothing was meant to change, a change has altered every loss curve: find it. When a loss curve was
changed on purpose, raise NUMERICS_VERSION in `tinylm_core/config.py` (runs of before are then another science, law 7)
and update the numbers here in the same commit: `python tests/core/test_golden.py` prints them.

The tokens are those of `data="random"`, a hash's, which no library's version changes. Initial weights come from
PyTorch's generator, the order of windows from NumPy's: a new version of either that gives other numbers is such a
change too.
"""

import pytest

from tinylm_core.config import NUMERICS_VERSION, RunConfig
from tinylm_core.train import run

COMMON = {
    "data": "random", "tokenizer": "ids", "vocab_size": 50, "max_seq_len": 16, "d_model": 24, "num_heads": 3,
    "num_layers": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "train_tokens": 128 * 5, "num_evals": 1,
    "eval_tokens": 1000, "init_std": 0.1, "learning_rate": 0.01, "precision": "fp64", "seed": 3,
}  # fmt: skip
CONFIGS = {
    "pre-norm": RunConfig.model_validate(COMMON | {"dropout": 0.2, "warmup_ratio": 0.4, "max_grad_norm": 0.5}),
    "post-norm": RunConfig.model_validate(
        COMMON | {"dropout": 0.1, "norm_first": False, "activation": "relu", "tie_embeddings": True, "stride": 5}
        | {"schedule": "wsd", "decay_ratio": 0.6, "decay_embeddings": False, "max_tokens": 300, "weight_decay": 1.0}
    ),
}  # fmt: skip


def measured(config: RunConfig) -> dict[str, list[float]]:
    metrics = run(config, device="cpu", threads=1)
    evals = [(record.val_loss, record.train_loss, record.val_loss_standard_error) for record in metrics.evals]
    return {
        "losses": [record.loss for record in metrics.steps],
        "grad_norms": [record.grad_norm for record in metrics.steps],
        "learning_rates": [record.learning_rate for record in metrics.steps],
        "evals": [number for numbers in evals for number in numbers],
    }


GOLDEN_VERSION = 2
GOLDEN: dict[str, dict[str, list[float]]] = {
    "pre-norm": {
        "losses": [
            4.092442366652691,
            3.9705117362530977,
            4.014174552476101,
            3.9637082030868696,
            3.9866213389328924,
        ],
        "grad_norms": [
            1.2739910482531487,
            1.110520397960745,
            0.9644264572211817,
            0.9168724231448441,
            0.8808158340309314,
        ],
        "learning_rates": [
            0.005,
            0.01,
            0.007750000000000001,
            0.003250000000000001,
            0.001,
        ],
        "evals": [
            4.019198209642472,
            4.019224527005251,
            0.015925205209938623,
            4.003653514930142,
            3.9942135401062697,
            0.013566355090961013,
        ],
    },
    "post-norm": {
        "losses": [
            4.000557568099888,
            4.019771657698377,
            3.894898649040388,
            3.9386719822032434,
            3.8526809003596334,
        ],
        "grad_norms": [
            0.9373796766879615,
            0.8476494619608198,
            0.7052752049872038,
            0.6126193694714378,
            0.5611901191498905,
        ],
        "learning_rates": [
            0.01,
            0.01,
            0.007000000000000001,
            0.004,
            0.001,
        ],
        "evals": [
            4.075606114211609,
            4.018562970711483,
            0.016356974420229382,
            4.038213690780807,
            3.758742108036366,
            0.017208073367950338,
        ],
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_first_steps_are_those_of_this_numerics_version(name: str) -> None:
    for key, numbers in measured(CONFIGS[name]).items():
        assert numbers == pytest.approx(GOLDEN[name][key], rel=1e-9), key


def test_a_raised_numerics_version_has_its_own_numbers() -> None:
    assert NUMERICS_VERSION == GOLDEN_VERSION, "update GOLDEN and GOLDEN_VERSION together with NUMERICS_VERSION"


if __name__ == "__main__":
    for name, config in CONFIGS.items():
        print(f'    "{name}": {{')
        for key, numbers in measured(config).items():
            print(f'        "{key}": [')
            print("".join(f"            {number!r},\n" for number in numbers), end="")
            print("        ],")
        print("    },")
