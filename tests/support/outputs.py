"""What a run left: checkpoints, metrics and TensorBoard events, read without the code that wrote them."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Output:
    """What a run named `name` left under its output_dir."""

    root: Path
    name: str = "u"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints" / self.name

    @property
    def metrics_file(self) -> Path:
        return self.root / "checkpoints/logs" / self.name / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl."""
        if not self.metrics_file.exists():
            return []
        with self.metrics_file.open(encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics()]

    def learned(self) -> list[tuple[Any, ...]]:
        """What must not differ, bit for bit, between a run and one killed and resumed: a tuple for each iteration."""
        keys = ("iteration", "loss", "grad_norm", "lr", "tokens", "task_loss", "task_tokens", "loss_scale")
        return [tuple(line[key] for key in keys) for line in self.metrics()]

    def latest(self) -> int:
        return int((self.checkpoints / "latest").read_text())

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there."""
        if not self.checkpoints.exists():
            return []
        return sorted(int(entry.name) for entry in self.checkpoints.iterdir() if entry.name.isdigit())

    def state(self, step: int) -> dict[str, Any]:
        """state.json of a checkpoint."""
        return json.loads((self.checkpoints / str(step) / "state.json").read_text())

    def progress(self, step: int) -> dict[str, Any]:
        """Counters and stream_sha256 of a checkpoint."""
        return self.state(step)["progress"]

    def take_as_written(self, step: int) -> None:
        """Have the manifest of a checkpoint say that its files, whatever was done to them, are what was written."""
        folder = self.checkpoints / str(step)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
        listed = {name: {"size": len(data), "crc32": f"{zlib.crc32(data):08x}"} for name, data in files.items()}
        (folder / "manifest.json").write_text(json.dumps({"version": 1, "files": listed}))

    def weights(self, step: int) -> dict[str, Any]:
        """The weights of a checkpoint, in whichever form."""
        import torch
        from safetensors.torch import load_file

        folder = self.checkpoints / str(step)
        if (path := folder / f"fm9g_live_checkpoint-{step}.pt").exists():
            return torch.load(path, weights_only=True)
        shards = sorted(folder.glob(f"fm9g_live_checkpoint-{step}-*-of-*.safetensors"))
        return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}

    def optimizer(self, step: int | str) -> dict[str, dict[str, Any]]:
        """{name: {step, moment: flat tensor}} of a checkpoint, put together from the files of all ranks."""
        import torch

        whole: dict[str, list[dict[str, Any]]] = {}
        for path in sorted((self.checkpoints / str(step)).glob("optimizer-*.pt")):
            for name, piece in torch.load(path, weights_only=True).items():
                whole.setdefault(name, []).append(piece)
        merged: dict[str, dict[str, Any]] = {}
        for name, pieces in whole.items():
            merged[name] = {"step": {piece["step"] for piece in pieces}}
            for key in [key for key, value in pieces[0].items() if isinstance(value, torch.Tensor)]:
                places = torch.cat([_places(piece["start"], piece.get("columns"), len(piece[key])) for piece in pieces])
                assert places.sort().values.equal(torch.arange(len(places))), f"{key} of {name}: lost, or there twice"
                merged[name][key] = torch.cat([piece[key] for piece in pieces])[places.argsort()]
        return merged

    def events(self) -> dict[str, list[tuple[int, float]]]:
        """{tag: [(step, value)]} of the TensorBoard scalars under this output_dir."""
        from tensorboardX.proto.event_pb2 import Event

        scalars: dict[str, list[tuple[int, float]]] = {}
        for path in sorted(self.root.glob("tensorboard/**/events.*")):
            for record in _tensorboard_records(path.read_bytes()):
                event = Event.FromString(record)
                for value in event.summary.value:
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
        return scalars


def _places(start: int, columns: list[int] | None, count: int) -> Any:
    """Where the values of a piece belong in the whole tensor, which is flat."""
    import torch

    flat = torch.arange(start, start + count)
    if columns is None:
        return flat
    first, last, width = columns
    return flat // (last - first) * width + first + flat % (last - first)


def _tensorboard_records(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):  # length (8 bytes), its checksum (4), the record, its checksum (4)
        length = int.from_bytes(content[place : place + 8], "little")
        yield content[place + 12 : place + 12 + length]
        place += 16 + length


def copy_output(output: Output, target: Path) -> Output:
    """A run's folders at another place, to go on from there."""
    shutil.copytree(output.root, target)
    return Output(target, output.name)
