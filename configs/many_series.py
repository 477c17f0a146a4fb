"""Many series with the default method, one device each.

Command:
    python -m launch.reconstruct --config=configs/many_series.py \\
        --series_list=series.txt --workdir=runs/screening

On several devices add --set=samples=0 --set=slabs=0: samples are shared out first.
"""

from temdiff_jax.reconstruction.many import ManyConfig


def get_config() -> ManyConfig:
    """The resolved run."""
    return ManyConfig()
