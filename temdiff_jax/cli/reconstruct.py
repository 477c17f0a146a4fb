"""`temdiff reconstruct`: a tilt series in, a volume with its uncertainty out."""

import typer

from temdiff_jax.cli import choices, groups, options, request, runfile

# Of --strict.
EXIT_DOUBTED = 3


@groups.flat
def reconstruct(
    context: typer.Context,
    tilts: request.Source,
    model: request.Model,
    sampling: choices.Sampling,
    results: request.Results,
    *,
    verbose: options.Verbose = False,
    devices: options.Devices = 1,
    dry_run: options.DryRun = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
    config: runfile.Config = None,
    write_config: runfile.WriteConfig = None,
) -> None:
    """Reconstruct the volume of a tilt series.

    Writes NAME_temdiff.mrc (mean), NAME_std.mrc if samples are drawn, NAME_report.html,
    its cover NAME_report.png, and NAME.temdiff.json.  The first lines say how far the
    result can be relied on.
    """
    del config  # read before the other options

    from temdiff_jax.cli import outputs, session
    from temdiff_jax.io import write

    settings = session.Settings(
        sampling,
        model,
        devices=devices,
        dry_run=dry_run,
        resume=results.resume,
    ).checked()
    series = tilts.load()
    settings = settings.of(series)
    name, spread = series.name, settings.draws
    files = outputs.named(results, name, spread=spread)
    if not dry_run:
        files = outputs.plan(results, name, spread=spread, inputs=tilts.files())
    running = session.Session(context.obj or (), as_json=as_json)
    if verbose:
        running.say_later([f"decision: {decision}" for decision in series.decisions])
    chosen = runfile.given(context)
    if write_config is not None:
        write.write_text(
            write_config, runfile.text_of(chosen), overwrite=results.overwrite
        )
    record = session.reconstruct(
        running,
        series,
        settings,
        files,
        command="reconstruct",
        source=tilts.record(series) | {"config": chosen},
    )
    if strict and not dry_run and not session.consistent(record):
        raise typer.Exit(EXIT_DOUBTED)
