"""What a user would write instead: Optuna, MLflow and a training loop, glued together as a notebook has them.

PyTorch's own encoder layers in float32, `.item()` and `log_metrics` at each step, trials one after the other with all
cores in one process. It is the other side of `benchmarks/sweep_throughput.py`, and computes the same: as many tokens,
the same model, AdamW with warmup and cosine decay, and an evaluation over as many tokens.
"""

import argparse
import json
import math
from pathlib import Path

import mlflow
import optuna
import torch
from torch import nn
from torch.nn import functional as F


class NotebookGPT(nn.Module):
    def __init__(self, vocab_size, context, width, layers, heads, dropout):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x, mask=self.mask[: ids.shape[1], : ids.shape[1]], is_causal=True)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=json.loads)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    work, folder = arguments.work, arguments.folder

    data = torch.tensor([int(token) for token in Path(work["data"]).read_text().split()])
    cut = int(0.9 * len(data))
    train, val = data[:cut], data[cut:]
    batch_size, context, steps = work["batch_size"], work["max_seq_len"], work["steps"]

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("notebook")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def batch(part):
        starts = torch.randint(len(part) - context - 1, (batch_size,)).tolist()
        return torch.stack([part[s : s + context] for s in starts]), torch.stack(
            [part[s + 1 : s + context + 1] for s in starts]
        )

    @torch.no_grad()
    def evaluate(model, part):
        model.eval()
        losses = []
        for _ in range(max(1, work["eval_tokens"] // (batch_size * context))):
            x, y = batch(part)
            losses.append(F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item())
        model.train()
        return sum(losses) / len(losses)

    def objective(trial):
        learning_rate = trial.suggest_categorical("learning_rate", work["learning_rates"])
        torch.manual_seed(0)
        model = NotebookGPT(work["vocab_size"], context, work["d_model"], work["num_layers"], work["num_heads"], 0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
        warmup = steps // 10
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                (step + 1) / warmup
                if step < warmup
                else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            ),
        )
        with mlflow.start_run():
            mlflow.log_params({"learning_rate": learning_rate, "steps": steps, "batch_size": batch_size})
            for _ in range(work["num_evals"]):  # as many before the last one as the other side makes
                evaluate(model, train), evaluate(model, val)
            for step in range(steps):
                x, y = batch(train)
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                mlflow.log_metrics({"loss": loss.item(), "learning_rate": scheduler.get_last_lr()[0]}, step=step)
                scheduler.step()
            result = evaluate(model, val)
            mlflow.log_metrics({"val_loss": result, "train_loss": evaluate(model, train)}, step=steps)
        return result

    sampler = optuna.samplers.GridSampler({"learning_rate": work["learning_rates"]})
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=len(work["learning_rates"]))


if __name__ == "__main__":
    main()
