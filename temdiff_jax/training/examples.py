"""Examples for a data loader: a random-access view of what a training run sees."""

from __future__ import annotations

import operator
import threading

from temdiff_jax.errors import InputError
from temdiff_jax.training.data import Block, BlockSource, cut_batch


class Examples:
    """What a run sees, one crop at a time: example ``step * batch + row``.

    A pure function of (seed, step, row): row ``row`` of the batch that the training
    loop cuts at ``step``, in the same bits.  Safe to index from several threads, and
    to send to worker processes, each of which simulates the phases it needs.
    """

    def __init__(self, source: BlockSource, *, batch: int, num_steps: int):
        self.source = source
        self.batch = batch
        self.num_steps = num_steps
        self.__setstate__({})

    def __getstate__(self) -> dict:
        names = ("source", "batch", "num_steps")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        # Neither a lock nor simulated blocks travel to another process.
        self._lock = threading.Lock()
        self._phases: dict[int, list[Block]] = {}

    def __repr__(self) -> str:
        seed, data = self.source.seed, self.source.data
        return f"Examples(seed={seed}, batch={self.batch}, {data})"

    def __len__(self) -> int:
        return self.batch * self.num_steps

    def __getitem__(self, index: int) -> Block:
        """The crop, arrays ``[z, x, y]`` and features ``[f]``, NumPy.

        Raises:
          IndexError: Not within 0 and ``len(self)``.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        step, row = divmod(index, self.batch)
        config = self.source.data
        batch = cut_batch(
            self._blocks(step // config.steps_per_phase),
            seed=self.source.seed,
            step=step,
            batch=self.batch,
            crop=config.crop,
            mirror=config.mirror,
        )
        return Block(*(None if a is None else a[row] for a in batch))

    def _blocks(self, phase: int) -> list[Block]:
        kept = self.source.data.phases_kept
        wanted = range(phase, phase + kept)
        # Held during the simulation: a second thread waits instead of repeating it.
        with self._lock:
            for number in wanted:
                if number not in self._phases:
                    self._phases[number] = self.source.phase(number)
            # One phase more than needed, for threads still behind a change of phase.
            for old in sorted(self._phases)[: -kept - 1]:
                if old not in wanted:
                    del self._phases[old]
            return [block for n in wanted for block in self._phases[n]]

    def shard(self, index: int, count: int) -> Shard:
        """The part of one of ``count`` loaders: rows ``index + k * count``.

        Raises:
          InputError: A batch cannot be shared equally.
        """
        if self.batch % count or not 0 <= index < count:
            raise InputError(
                f"data shards: expected a batch of {self.batch} shared equally, got "
                f"shard {index} of {count}; choose another number of shards"
            )
        return Shard(self, index, count)


class Shard:
    """Every ``count``-th example, beginning with ``index``; see `Examples.shard`."""

    def __init__(self, examples: Examples, index: int, count: int):
        self.examples = examples
        self.index = index
        self.count = count

    def __repr__(self) -> str:
        return f"Shard({self.index} of {self.count}, {self.examples!r})"

    def __len__(self) -> int:
        return len(self.examples) // self.count

    def __getitem__(self, index: int) -> Block:
        """Example ``index * count + self.index``; raises as `Examples`."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.examples[index * self.count + self.index]
