"""AdamW steps for BMTrain's two optimizers: decoupled, with fp32 moments, in every dtype.

They equal torch.optim.AdamW (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101) on fp32 master weights.
BMTrain's own differ from it: its float32 path couples the decay with the gradient (L2), and in
fp16 it keeps moments multiplied by the loss scale, half of them rounded to fp16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BUCKET_ELEMENTS = 1 << 26  # bounds the fp32 copies of low-precision gradients: 256 MB at a time
LOW_PRECISION = (torch.float16, torch.bfloat16)


def _trainable(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], Any]]:
    for group in optimizer.param_groups:
        for param in group["params"]:
            if param.grad is None or not param.requires_grad:
                continue
            if param.grad.is_sparse or param.dtype not in (torch.float32, *LOW_PRECISION):
                raise RuntimeError(f"Adam takes dense fp32, fp16 and bf16 gradients, not {param.dtype}")
            yield group, param


def _ensure_state(state: dict[str, Any], param: Tensor, device: torch.device) -> None:
    if state:
        return
    state["step"] = 0
    state["exp_avg"] = torch.zeros(param.shape, dtype=torch.float32, device=device)
    state["exp_avg_sq"] = torch.zeros(param.shape, dtype=torch.float32, device=device)
    if param.dtype != torch.float32 or device != param.device:
        state["_param_fp32"] = param.detach().to(device=device, dtype=torch.float32, copy=True)


def _buckets(pairs: Iterator[tuple[dict[str, Any], Any]]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Runs of parameters of one group and dtype, up to BUCKET_ELEMENTS together."""
    current: list[Any] = []
    elements, key = 0, None
    group: dict[str, Any] = {}
    for group_of_param, param in pairs:
        key_of_param = (id(group_of_param), param.dtype)
        if current and (key_of_param != key or elements + param.numel() > BUCKET_ELEMENTS):
            yield group, current
            current, elements = [], 0
        current.append(param)
        elements, key, group = elements + param.numel(), key_of_param, group_of_param
    if current:
        yield group, current


def _update(
    group: dict[str, Any], masters: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], hold_steps: int
) -> None:
    """One AdamW step in place on fp32 `masters`, given unscaled fp32 `grads`."""
    beta1, beta2 = group["betas"]
    # float32 takes torch.optim.AdamW's own default path, to equal it bit for bit; masters are ours alone
    fused = True if "_param_fp32" in states[0] else None
    adamw(
        masters,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        _step_numbers(states, masters[0].device if fused else torch.device("cpu")),
        fused=fused,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=0.0 if states[0]["step"] < hold_steps else group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=bool(group.get("maximize", False)),
    )
    for state in states:
        state["step"] += 1


def _step_numbers(states: list[dict[str, Any]], device: torch.device) -> list[Tensor]:
    """A number for each state, made on the device: one that is sent there makes the host wait for the device."""
    if len({state["step"] for state in states}) == 1:
        return list(torch.full((len(states),), float(states[0]["step"]), device=device).unbind())
    return [torch.full((), float(state["step"]), device=device) for state in states]


def _closure_loss(closure: Any) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


@torch.no_grad()
def adam_step(self: Any, closure: Any = None, scale: float = 1) -> Any:
    """`AdamOptimizer.step`: state beside the parameters. Gradients are divided by `scale` first."""
    loss = _closure_loss(closure)
    for group, params in _buckets(_trainable(self)):
        states = [self.state[param] for param in params]
        for state, param in zip(states, params, strict=True):
            _ensure_state(state, param, param.device)
        low = params[0].dtype in LOW_PRECISION
        masters = [state["_param_fp32"] for state in states] if low else params
        grads = _unscaled_together(params, scale) if low else [_unscaled(param.grad, scale) for param in params]
        _update(group, masters, grads, states, self._hold_steps)
        if low:
            torch._foreach_copy_(params, masters)
    return loss


@torch.no_grad()
def offload_step(self: Any, closure: Any = None, scale: float = 1) -> Any:
    """`AdamOffloadOptimizer.step`: state and arithmetic on the host."""
    loss = _closure_loss(closure)
    host = torch.device("cpu")
    deltas: list[tuple[float, float, int]] = []
    for group, param in _trainable(self):
        state = self.state[param]
        _ensure_state(state, param, host)
        if "_param_fp32" not in state:  # the parameter is on the host already
            state["_param_fp32"] = param.detach().clone()
        grad = _unscaled(param.grad.to(host), scale)
        before = state["_param_fp32"].clone() if self.record_delta else None
        _update(group, [state["_param_fp32"]], [grad], [state], self._hold_steps)
        if before is not None:
            deltas.append(_delta_sums(before, state["_param_fp32"], group["lr"]))
        param.copy_(state["_param_fp32"])
    if deltas:
        total = sum(count for _, _, count in deltas)
        self.avg_delta = sum(first for first, _, _ in deltas) / total
        self.var_delta = sum(second for _, second, _ in deltas) / total - self.avg_delta**2
    return loss


def _unscaled_together(params: list[Any], scale: float) -> list[Tensor]:
    """fp32 copies of the parameters' gradients, in a few kernels."""
    sizes = [param.numel() for param in params]
    flat = torch.empty(sum(sizes), dtype=torch.float32, device=params[0].device)
    grads = [part.view(param.shape) for part, param in zip(flat.split(sizes), params, strict=True)]
    torch._foreach_copy_(grads, [param.grad for param in params])
    if scale != 1:
        flat.div_(scale)
    return grads


def _unscaled(grad: Tensor, scale: float) -> Tensor:
    # torch's fused kernels want the gradient contiguous; a division by 1 would only copy it
    grad = grad.float()
    return grad.div(scale) if scale != 1 else grad


def _delta_sums(before: Tensor, after: Tensor, lr: float) -> tuple[float, float, int]:
    """Sum and sum of squares of the update per unit of learning rate."""
    delta = (before - after).div_(lr) if lr else torch.zeros_like(before)
    return delta.sum().item(), delta.square().sum().item(), delta.numel()


def no_rescaling(self: Any, old_scale: float, new_scale: float) -> None:
    """`AdamOptimizer._on_justify_scale`: moments here do not depend on the loss scale."""


def load_state_dict(original: Any) -> Any:
    """Wrap BMTrain's `load_state_dict`, which rounds the first moment of fp16 parameters to fp16."""

    def load(self: Any, state_dict: dict[str, Any]) -> None:
        original(self, state_dict)
        params = [param for group in self.param_groups for param in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, param in zip(keys, params, strict=True):
            saved = state_dict["state"].get(key)
            if saved and "exp_avg" in saved and param in self.state:
                self.state[param]["exp_avg"] = saved["exp_avg"].to(device=param.device, dtype=torch.float32, copy=True)

    return load
