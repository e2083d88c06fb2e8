"""Work with what a run could not decode.

    python jobs/quarantine.py RUN                        what failed, and why
    python jobs/quarantine.py RUN --export bad.csv       the same as .csv, .parquet or .jsonl
    python jobs/quarantine.py RUN --extract bad_files    the samples' bytes, to look at
    python jobs/quarantine.py RUN --retest               decode them again, by every decoder that is installed
    python jobs/quarantine.py RUN --exclude              leave them out of later runs on this source
    python jobs/quarantine.py RUN --include              take that back

--reason and --key narrow all of these down. --retest --exclude leaves out only what no decoder reads.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from headrace.cli import saved_recipe
from headrace.data.exclusions import Exclusion
from headrace.data.extract import check_folder, extract
from headrace.data.manifest import Manifest
from headrace.data.quarantine import QUARANTINE_FILE, Quarantined, check_export, export, read_quarantine
from headrace.data.retest import Retest, Retested
from headrace.errors import UserError, did_you_mean, exit_with_sentence
from headrace.observe.figures import one_line, plural
from headrace.recipe import Recipe
from headrace.train.progress import newest_checkpoint, read_progress
from jobs.recipes import RECIPES
from jobs.sources import Bar, open_sources

NAMED_ROWS = 20


@dataclass(frozen=True)
class Options:
    """Work with what a run could not decode."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    export: Path | None = None
    """Write the table to this file: .csv, .parquet or .jsonl."""

    extract: Path | None = None
    """Copy the samples' bytes into this new folder."""

    extract_megabytes: int = 1024
    """Most that --extract copies; what does not fit is named."""

    retest: bool = False
    """Decode the samples again, in a process apart, by every decoder that is installed."""

    exclude: bool = False
    """Leave the samples out of later runs on their source; with --retest only those that are bad."""

    include: bool = False
    """Take back what --exclude did."""

    reason: str | None = None
    """Only samples that failed for this reason."""

    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Only the sample with this key; may be given several times."""

    all_rows: bool = False
    """Name every sample, however many."""


def main(arguments: Sequence[str]) -> int:
    """List, and do what else was asked for."""
    options = tyro.cli(Options, prog="quarantine.py", args=arguments)
    _check(options)
    recipe = saved_recipe(options.run, RECIPES)
    table = read_quarantine(options.run)
    chosen = _choose(table, options)
    _say_counts(options.run, table, chosen, recipe)
    if not chosen:
        return 0
    needs_source = options.extract or options.retest or options.exclude or options.include
    sources = _sources(recipe, chosen) if needs_source else []

    verdicts = dict[str, Retested]()
    if options.retest:
        verdicts = _retest(sources, recipe.data.decoder)
    _say_rows(chosen, verdicts, None if options.all_rows else NAMED_ROWS)
    if options.export is not None:
        export(options.export, chosen, {key: found.verdict for key, found in verdicts.items()})
        print(f"{options.export}: {plural(len(chosen), 'row')}")
    for number, source in enumerate(sources):
        if options.extract is not None:
            folder = options.extract if len(sources) == 1 else options.extract / str(number)
            _extract(source, folder, options.extract_megabytes << 20)
        if options.exclude:
            _exclude(source, options.run, verdicts)
        if options.include:
            count = source.manifest.exclusions().remove(source.rows.keys())
            print(f"{plural(count, 'sample')} of {source.manifest.source} are no longer excluded")
    return 0


@dataclass(frozen=True)
class _Source:
    """One of a run's sources: its manifest, and the run's rows that are about it, by their keys in this manifest."""

    manifest: Manifest
    rows: dict[str, Quarantined]


def _sources(recipe: Recipe, rows: Sequence[Quarantined]) -> list[_Source]:
    """Return the sources of a run that rows are about. Of a mixture, keys may have the name of their source before."""
    found = [_Source(part.manifest(), {}) for part in open_sources(recipe.data).all_parts]
    if len(found) == 1:
        return [_Source(found[0].manifest, {row.key: row for row in rows})]
    known = [set(source.manifest.table["key"].to_pylist()) for source in found]
    for row in rows:
        # Shards of a mixture have their source before them; of a source and its validation, only the key tells.
        fits = [
            (len(source.manifest.source) * row.shard.startswith(source.manifest.source), row.key in keys)
            for source, keys in zip(found, known, strict=True)
        ]
        at = fits.index(max(fits))
        found[at].rows[row.key if row.key in known[at] else row.key.partition("/")[2]] = row
    return [source for source in found if source.rows]


def _check(options: Options) -> None:
    """Complain of what can be known before anything is read."""
    if options.exclude and options.include:
        raise UserError("--exclude and --include undo each other: give one of them")
    if options.extract_megabytes < 1:
        raise UserError(f"--extract-megabytes must be at least 1, got {options.extract_megabytes}")
    if options.export is not None:
        check_export(options.export)
    if options.extract is not None:
        check_folder(options.extract)


def _choose(table: Sequence[Quarantined], options: Options) -> list[Quarantined]:
    reasons, keys = {row.reason for row in table}, {row.key for row in table}
    if options.reason is not None and options.reason not in reasons:
        raise UserError(f"nothing failed for the reason {options.reason!r}: {did_you_mean(options.reason, reasons)}")
    for key in options.key:
        if key not in keys:
            raise UserError(f"{key!r} is not in quarantine: see `python jobs/quarantine.py {options.run} --all-rows`")
    return [
        row for row in table if options.reason in (None, row.reason) and (not options.key or row.key in options.key)
    ]


def _say_counts(run: Path, table: Sequence[Quarantined], chosen: Sequence[Quarantined], recipe: Recipe) -> None:
    progress = read_progress(newest_checkpoint(run))
    print(f"{run / QUARANTINE_FILE}: {plural(len(table), 'sample')} could not be decoded")
    if progress.position:
        share = progress.failures / progress.position
        print(
            f"met {progress.failures:,} times in {progress.position:,} samples up to the newest checkpoint: "
            f"{share:.2%}, of {recipe.data.failures:.2%} that the run tolerates"
        )
    if len(chosen) < len(table):
        print(f"{len(chosen):,} of them are as asked for")
    for reason, count in Counter(row.reason for row in chosen).most_common():
        print(f"  {count:,} x {reason}")


def _say_rows(rows: Sequence[Quarantined], verdicts: dict[str, Retested], most: int | None) -> None:
    for row in rows[:most]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
        print(f"{one_line(row.key, 200)} ({one_line(row.shard, 200)} at {row.offset:,})")
        print(f"  {when}, position {row.position:,}: {row.reason} ({one_line(row.message, 300)})")
        if row.key in verdicts:
            found = verdicts[row.key]
            answers = "; ".join(f"{name}: {one_line(said or 'reads it', 120)}" for name, said in found.answers.items())
            print(f"  now: {found.verdict} ({answers})")
    if most is not None and len(rows) > most:
        print(f"... and {len(rows) - most:,} more: --all-rows names them")


def _retest(sources: Sequence[_Source], decoder: str) -> dict[str, Retested]:
    verdicts, missing = dict[str, Retested](), dict[str, str]()
    with Bar("decoding again") as bar:
        for source in sources:
            with Retest(source.manifest, decoder) as retest:
                for key, row in source.rows.items():
                    verdicts[row.key] = retest.of(key)
                    bar(len(verdicts), sum(len(other.rows) for other in sources))
            missing |= retest.missing
    for name, why in missing.items():
        print(f"not asked: {name} ({one_line(why, 120)})")
    for verdict, count in Counter(found.verdict for found in verdicts.values()).most_common():
        print(f"  {count:,} x {verdict}")
    return verdicts


def _extract(source: _Source, folder: Path, most_bytes: int) -> None:
    written, left = extract(source.manifest, list(source.rows), folder, most_bytes)
    print(f"{folder}: {plural(len(written), 'file')}, and files.csv, which says what they are")
    for key, why in list(left.items())[:NAMED_ROWS]:
        print(f"  not copied: {one_line(key, 200)} ({one_line(why, 200)})")
    if len(left) > NAMED_ROWS:
        print(f"  ... nor {len(left) - NAMED_ROWS:,} more")


def _exclude(source: _Source, run: Path, verdicts: dict[str, Retested]) -> None:
    """Exclude the samples; those that were tested again only if they are bad."""
    bad = {key: row for key, row in source.rows.items() if not verdicts or verdicts[row.key].verdict == "bad"}
    exclusions = source.manifest.exclusions()
    new = exclusions.add(Exclusion(key, row.reason, run.resolve().name) for key, row in bad.items())
    print(
        f"{plural(new, 'sample')} more of {source.manifest.source} are left out of later runs (--include undoes it). A "
        f"run that has begun counts them: it goes on only after --include"
    )


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
