"""What a run came to, in the files and by the names that users of transformers look for; made of metrics.jsonl.

train_results.json, eval_results.json and trainer_state.json, written anew whenever a run ends. An epoch is that of the
dataset that was read least.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fm9g.files import write_text
from fm9g.training.metrics import Evaluated, finite, metrics_of


def write_results(
    logs: Path, evaluated: Evaluated | None, log_iters: int, max_steps: int, best: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Write the files beside metrics.jsonl; `evaluated`: the last evaluation, `best`: what the state says of the best.
    Returns the log_history.

    Nothing is written of training where metrics.jsonl tells of no iteration.
    """
    total, count, seconds, last = 0.0, 0, 0.0, dict[str, Any]()
    history: list[dict[str, Any]] = []
    for last in metrics_of(logs / "metrics.jsonl"):
        if last["loss"] is not None:
            total, count = total + last["loss"], count + 1
        seconds += last["step_seconds"]
        history += _logged(last, last["iteration"] % log_iters == 0 or last["iteration"] == max_steps)
    if last:
        _write(logs / "train_results.json", _trained(last, total / count if count else None, seconds))
        state = {"epoch": _epoch(last), "global_step": last["iteration"], "max_steps": max_steps}
        _write(logs / "trainer_state.json", {**best, **state, "logging_steps": log_iters, "log_history": history})
    if evaluated is not None:
        _write(logs / "eval_results.json", _evaluated(evaluated) | ({"epoch": _epoch(last)} if last else {}))
    return history


def _epoch(line: Mapping[str, Any]) -> float | None:
    return min(line["task_epochs"].values(), default=None)


def _logged(line: Mapping[str, Any], printed: bool) -> Iterator[dict[str, Any]]:
    """The entries of log_history for an iteration: of training where it was printed, and of its evaluation."""
    where = {"step": line["iteration"], "epoch": _epoch(line)}
    if printed:
        yield {**where, "loss": line["loss"], "learning_rate": line["lr"], "grad_norm": line["grad_norm"]}
    if line["eval_loss"] is not None:
        seen = {f"eval_{name}": value for name, value in line["eval_seen"].items()}
        yield {**where, "eval_loss": line["eval_loss"], "eval_perplexity": line["eval_perplexity"], **seen}


def _trained(last: Mapping[str, Any], loss: float | None, seconds: float) -> dict[str, Any]:
    documents, tokens = sum(last["task_documents"].values()), last["tokens"]
    return {
        "epoch": _epoch(last),
        "train_loss": loss,
        "train_runtime": seconds,
        "train_samples": documents,
        "train_samples_per_second": documents / seconds,
        "train_steps_per_second": last["iteration"] / seconds,
        "train_tokens": tokens,
        "train_tokens_per_second": tokens / seconds,
    }


def _evaluated(evaluated: Evaluated) -> dict[str, Any]:
    return {
        "eval_loss": evaluated.loss,
        "perplexity": evaluated.perplexity,
        **{f"eval_{name}": value for name, value in evaluated.seen.items()},
        "eval_task_loss": evaluated.task_loss,
        "eval_tokens": evaluated.tokens,
        "eval_runtime": evaluated.seconds,
    }


def _write(path: Path, told: dict[str, Any]) -> None:
    told = {key: [finite(item) for item in value] if isinstance(value, list) else value for key, value in told.items()}
    write_text(path, json.dumps(finite(told), ensure_ascii=False, allow_nan=False, indent=2) + "\n")
