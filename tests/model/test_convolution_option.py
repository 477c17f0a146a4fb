"""The XLA option of the programs."""

from temdiff_jax.model.conv import prefer_own


def test_the_option_is_added_once_and_what_is_given_stays():
    environ = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    prefer_own(environ)
    first = environ["XLA_FLAGS"]
    assert first.startswith("--xla_force_host_platform_device_count=2 --xla_cpu")
    prefer_own(environ)
    assert environ["XLA_FLAGS"] == first


def test_an_option_of_the_user_stays():
    own = "--xla_cpu_experimental_ynn_fusion_type="
    environ = {"XLA_FLAGS": own}
    prefer_own(environ)
    assert environ["XLA_FLAGS"] == own
