"""What the programs of several processes share: how they meet, and how they end."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import jax
from absl import flags

from temdiff_jax.errors import InputError


def define_flags() -> None:
    """Defines the flags of ``join``."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "host:port of process 0, for a run of several processes; 'auto' asks the "
        "cluster. Not needed below srun.",
    )
    flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
    flags.DEFINE_integer("process_id", None, "With --coordinator: which one, from 0.")
    flags.DEFINE_integer(
        "local_devices",
        None,
        "Devices that this process must have. Below srun the default is one a task; "
        "give the number for one task a node.",
    )


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    local_devices: int | None,
) -> None:
    """Connects this process with the others of the run, before any array exists.

    Without ``coordinator`` that happens below ``srun`` with more than one task only.

    Raises:
      InputError: The flags do not belong together, or the devices are not there.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    below_srun = "SLURM_STEP_NODELIST" in os.environ and tasks > 1
    automatic = coordinator == "auto" or (coordinator is None and below_srun)
    ids = None if local_devices is None else list(range(local_devices))
    if automatic:
        jax.distributed.initialize(local_device_ids=ids)
    elif coordinator is not None:
        if num_processes is None or process_id is None or ":" not in coordinator:
            raise InputError(
                "--coordinator: expected host:port with --num_processes and "
                f"--process_id, got {coordinator}, {num_processes} and {process_id}; "
                "give all three, or --coordinator=auto on a cluster"
            )
        host = coordinator.rpartition(":")[0]
        # The default listens on every interface, and knows no passwords.
        own = coordinator if host in ("127.0.0.1", "localhost") else None
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_device_ids=ids,
            cluster_detection_method="deactivate",
            coordinator_bind_address=own,
        )
    elif num_processes is not None or process_id is not None:
        raise InputError(
            "--coordinator: expected host:port beside --num_processes and "
            "--process_id, got none; give it, or leave out all three"
        )
    if local_devices is not None and jax.local_device_count() != local_devices:
        raise InputError(
            f"--local_devices: expected {local_devices} devices in this process, got "
            f"{jax.local_device_count()}; correct the flag or the job's request"
        )


def join_as(given: flags.FlagValues) -> None:
    """Joins as the flags of ``define_flags`` say; raises as ``join``."""
    join(given.coordinator, given.num_processes, given.process_id, given.local_devices)


def fail(message: str, code: int) -> NoReturn:
    """Exits with a message and a code.

    Among several processes without a farewell: that would wait for the others, who wait
    for this one, while its end is noticed and ends them too.
    """
    print(message, file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def leave_at_once() -> None:
    """Exits with code 0 and waits for nothing more.

    The state is on the disk, while the next phase may be simulated for minutes, longer
    than a scheduler waits.
    """
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
