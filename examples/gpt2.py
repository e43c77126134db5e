"""Which learning rate and warmup does a small GPT-2 of Hugging Face's want?

    pip install transformers
    python -m sweeps.run examples/gpt2.py

A trainer of one's own around a model of somebody else's, made from a config: nothing is downloaded.
"""

import torch
from pydantic import BaseModel
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

from sweeps import Choice, Sweep
from tinylm_core import RunConfig
from tinylm_core.checkpoint import weights_sha256
from tinylm_core.corpus import load_corpus
from tinylm_core.records import EvalRecord, Metrics, StepRecord

EVALUATED = 64  # windows of each part, evenly spaced


class Config(BaseModel, frozen=True, extra="forbid"):
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    context: int = 64  # bytes
    width: int = 64
    num_layers: int = 2
    batch_size: int = 16
    num_steps: int = 160
    num_evals: int = 4
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context


def train(config: Config, *, workdir, on_steps, on_eval, should_stop, device, **_) -> Metrics:
    torch.manual_seed(config.seed)
    corpus = load_corpus(RunConfig(data="python-docs", tokenizer="byte"))
    windows, held_out = (
        torch.as_tensor(tokens[: len(tokens) // config.context * config.context]).long().view(-1, config.context)
        for tokens in (corpus.train, corpus.val)
    )
    size = {"n_positions": config.context, "n_embd": config.width, "n_layer": config.num_layers, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **size)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    warmup = round(config.warmup_ratio * config.num_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, config.num_steps)

    def evaluate(step: int) -> None:
        model.eval()
        with torch.no_grad():
            means = []
            for some in (held_out, windows):
                ids = some[:: len(some) // EVALUATED][:EVALUATED].to(device)
                logits = model(ids).logits[:, :-1]
                losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
                means += [losses.mean().item(), losses.std().item() / EVALUATED**0.5]
        on_eval(EvalRecord(step, step * config.tokens_per_step, *means))
        model.train()

    evaluate(0)
    for step in range(1, config.num_steps + 1):
        ids = windows[torch.randint(len(windows), (config.batch_size,))].to(device)
        loss = model(ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_steps([StepRecord(step, step * config.tokens_per_step, loss.item(), rate, norm.item())])
        if step % max(1, config.num_steps // config.num_evals) == 0 or step == config.num_steps:
            evaluate(step)
        if should_stop():
            return Metrics("INTERRUPTED", model.num_parameters(), 256)
    if workdir is not None:
        model.save_pretrained(workdir / "checkpoint")  # becomes an artifact of the run
    return Metrics("COMPLETE", model.num_parameters(), 256, weights_sha256=weights_sha256(model))


SWEEP = Sweep(
    base=Config(),
    space={"learning_rate": Choice(3e-4, 1e-3, 3e-3), "warmup_ratio": Choice(0.0, 0.1)},
    run=train,
    version=1,
)
