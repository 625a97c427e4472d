import bmtrain as bmt
import torch


class Scale(bmt.DistributedModule):
    """Multiplies by a parameter that lies on the device."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter(torch.full((1,), 3.0, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight
