"""The network of ``temdiff_jax/model`` in PyTorch, for the time of a training step.

Reads what ``launch/benchmark_training.py`` wrote, one ``.npz`` with

    config                    JSON: groups, patch, blocks, number of levels
    params/NAME/...           weights, as the JAX network names them
    x, volume, coverage       fields [b, z, x, y]
    scalars                   [b, f], noise level first
    target                    [b, z, x, y]
    output                    what the JAX network answers to these inputs

and prints one JSON line: ``step_ms``, the smallest time of forward, backward and Adam;
``output_error``, the relative difference of the two answers; version and threads.  It
refuses to time a network whose answer differs by more than 0.1 %.

    python torch_peer.py --inputs step.npz --repeats 6
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch
from torch.nn import functional

MAX_OUTPUT_ERROR = 1e-3
# That of Flax; PyTorch's own default differs.
NORM_EPS = 1e-6


class Network:
    """The U-Net as functions of its weights, features as channels ``[b, c, z, x, y]``.

    Attributes:
      params: Tensors by name, in PyTorch's order of axes, with gradients.
    """

    def __init__(self, weights: dict[str, np.ndarray], config: dict) -> None:
        self._config = config
        self.params = {name: _tensor(name, value) for name, value in weights.items()}

    def __call__(self, fields: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        """Maps ``[b, 3, z, x, y]`` and ``[b, f]`` to ``[b, z, x, y]``."""
        patch, blocks = self._config["patch"], self._config["blocks"]
        embedding = functional.silu(self._linear(scalars, "embed_in"))
        embedding = functional.silu(self._linear(embedding, "embed_out"))
        h = self._layer(space_to_depth(fields, patch), "stem")
        skips = []
        for level, count in enumerate(blocks):
            if level:
                h = self._layer(space_to_depth(h, 2), f"down_{level}")
            for block in range(count):
                h = self._block(h, embedding, f"down_{level}_{block}")
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(len(blocks) - 1)):
            h = depth_to_space(self._layer(h, f"up_{level}"), 2)
            h = self._layer(torch.cat([h, skips.pop()], dim=1), f"merge_{level}")
            h = self._block(h, embedding, f"up_{level}_0")
        h = functional.silu(self._norm(h, "norm_out"))
        return depth_to_space(self._layer(h, "head"), patch)[:, 0]

    def _block(self, x, embedding, name):
        h = functional.silu(self._norm(x, f"{name}/norm_in"))
        h = self._norm(self._layer(h, f"{name}/conv_in"), f"{name}/norm_mid")
        film = self._linear(embedding, f"{name}/film")[:, :, None, None, None]
        scale, shift = torch.chunk(film, 2, dim=1)
        h = self._layer(functional.silu(h * (1 + scale) + shift), f"{name}/conv_out")
        if f"{name}/skip/kernel" in self.params:
            x = self._layer(x, f"{name}/skip")
        return x + h

    def _layer(self, x, name):
        """A convolution of 1 or 3 taps along each axis, as its kernel says."""
        kernel = self.params[f"{name}/kernel"]
        bias = self.params.get(f"{name}/bias")
        return functional.conv3d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def _linear(self, x, name):
        kernel = self.params[f"{name}/kernel"][:, :, 0, 0, 0]
        return functional.linear(x, kernel, self.params[f"{name}/bias"])

    def _norm(self, x, name):
        return functional.group_norm(
            x,
            self._config["groups"],
            self.params[f"{name}/scale"],
            self.params[f"{name}/bias"],
            eps=NORM_EPS,
        )


def _tensor(name: str, value: np.ndarray) -> torch.Tensor:
    """A weight; kernels ``[(3, 3, 3,) in, out]`` as ``[out, in, taps]``."""
    if name.endswith("kernel"):
        if value.ndim == 2:
            value = value[None, None, None]
        value = value.transpose(4, 3, 0, 1, 2)
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    if tensor.ndim == 5:
        tensor = tensor.to(memory_format=torch.channels_last_3d)
    return tensor.requires_grad_()


def space_to_depth(x: torch.Tensor, patch: int) -> torch.Tensor:
    """``patch^3`` voxels as channels, those of the input fastest."""
    b, c, nz, nx, ny = x.shape
    p = patch
    x = x.reshape(b, c, nz // p, p, nx // p, p, ny // p, p)
    x = x.permute(0, 3, 5, 7, 1, 2, 4, 6)
    x = x.reshape(b, p**3 * c, nz // p, nx // p, ny // p)
    return x.contiguous(memory_format=torch.channels_last_3d)


def depth_to_space(x: torch.Tensor, patch: int) -> torch.Tensor:
    """Inverse of ``space_to_depth``."""
    b, c, nz, nx, ny = x.shape
    p = patch
    x = x.reshape(b, p, p, p, c // p**3, nz, nx, ny).permute(0, 4, 5, 1, 6, 2, 7, 3)
    x = x.reshape(b, c // p**3, p * nz, p * nx, p * ny)
    return x.contiguous(memory_format=torch.channels_last_3d)


def measure(inputs: dict[str, np.ndarray], repeats: int) -> dict:
    """Checks the answer, then times steps."""
    weights = {
        name.removeprefix("params/"): value
        for name, value in inputs.items()
        if name.startswith("params/")
    }
    network = Network(weights, json.loads(str(inputs["config"])))
    fields = np.stack([inputs[name] for name in ("x", "volume", "coverage")], axis=1)
    fields = torch.from_numpy(fields).contiguous(memory_format=torch.channels_last_3d)
    scalars, target = (torch.from_numpy(inputs[n]) for n in ("scalars", "target"))
    with torch.no_grad():
        answer = network(fields, scalars).numpy()
    wanted = inputs["output"]
    error = float(np.linalg.norm(answer - wanted) / np.linalg.norm(wanted))
    if not error <= MAX_OUTPUT_ERROR:
        raise ValueError(
            f"torch_peer: expected the answer of the JAX network within "
            f"{MAX_OUTPUT_ERROR}, got a relative difference of {error:.3g}; the two "
            "definitions differ"
        )
    rule = torch.optim.Adam(network.params.values(), lr=1e-3, betas=(0.9, 0.99))

    def step() -> None:
        rule.zero_grad(set_to_none=True)
        loss = torch.mean((network(fields, scalars) - target) ** 2)
        loss.backward()
        rule.step()

    step()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return {
        "peer": "torch",
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "output_error": error,
        "step_ms": 1e3 * min(seconds),
    }


def main() -> None:
    """Prints one JSON line; exits with 2 where the networks differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", required=True, help=".npz of the benchmark")
    parser.add_argument("--repeats", type=int, default=6, help="timed steps")
    options = parser.parse_args()
    try:
        with np.load(options.inputs, allow_pickle=False) as held:
            inputs = dict(held)
        print(json.dumps(measure(inputs, options.repeats)))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
