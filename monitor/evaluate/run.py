"""`demur.evaluate`: judge a bundle on labelled, novel and shifted data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from demur.monitor.bundle import Bundle
from demur.monitor.evaluate import figures, kept, open_set, outcome, scope
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.calibration import Uniformity, attainable, uniformity
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.evaluation import Evaluation, Subject
from demur.monitor.evaluate.graded import graded_of
from demur.monitor.evaluate.grid import Tally
from demur.monitor.evaluate.judged import Unit, columns_of, judge, unit_of
from demur.monitor.evaluate.notes import notes_of
from demur.monitor.evaluate.open_set import Costs
from demur.monitor.evaluate.pool import ID, Part, Pool, check_names
from demur.monitor.evaluate.questions import Question, questions
from demur.monitor.evaluate.ranking import Ranking, open_set_of, rank
from demur.monitor.evaluate.selection import selection_of
from demur.monitor.evaluate.settings import Settings
from demur.monitor.evaluate.severities import Severity, severities_of
from demur.monitor.fit.contract import check_origin
from demur.monitor.fit.evidence import Evidence
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.fit.table import SignalsTable, load_table
from demur.monitor.monitor import Monitor

Source = SignalsTable | str | Path | Mapping[str, Any]


def evaluate(
    bundle: Bundle | str | Path,
    test: Source,
    *,
    ood: Mapping[str, Source] | None = None,
    shifted: Mapping[str, Source] | None = None,
    severity: Mapping[str, float] | None = None,
    unit: Unit | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    costs: Costs | None = None,
    novel_share: float = 0.5,
    tick: Tick = silent,
) -> Evaluation:
    """Judge a bundle by every ground truth that the data carry.

    test: in-distribution rows that neither fit nor calibration saw, with `label` or `loss` (without them only OOD is
    judged; graded losses are judged as such, `Evaluation.graded`). ood: novelty sets by name; the model is wrong on every unit of theirs. shifted: covariate-shifted sets by name,
    with labels. severity: a number for a set (the test set is `id`, default 0); a table's `severity` column is used
    otherwise. unit: row, group or stream; the default is what the rules judge. bootstrap: resamples for intervals, 0 for
    none. costs and novel_share are SCOD's. `tick` hears how many rows are scored and resampled.
    Raises: EvaluationError, TableError, BundleError, each saying what to change.
    """
    ood, shifted, severity = ood or {}, shifted or {}, severity or {}
    check_names(list(ood), list(shifted), severity)
    settings = Settings(bootstrap, seed, confidence, costs or Costs(), _share(novel_share))
    monitor = Monitor.of(bundle if isinstance(bundle, Bundle) else Bundle.load(bundle))
    counted = unit_of(monitor, unit)
    sources = {Part(ID, "id", severity.get(ID)): test}
    sources |= {Part(n, "novel", severity.get(n)): s for n, s in ood.items()}
    sources |= {Part(n, "shifted", severity.get(n)): s for n, s in shifted.items()}
    tables = {part: as_table(source, monitor) for part, source in sources.items()}
    judged = {p: judge(monitor, t, counted, _heard(tick, f"scoring {p.name}", len(t))) for p, t in tables.items()}
    judged = {
        p: replace(j, loss=None) if p.kind == "novel" else j for p, j in judged.items()
    }  # wrong, whatever it says
    pool = Pool(columns_of(monitor, counted), counted, judged)
    if not pool.usable.any():
        raise EvaluationError(
            f"every {counted} is INVALID or UNAVAILABLE: {monitor.bundle.digest[:12]} fits other data"
        )
    digests = {p.name: t.digest() for p, t in tables.items()}
    notes = notes_of(monitor, tables, judged, counted, digests)
    return _evaluation(monitor, pool, settings, digests, notes, tick)


def as_table(source: Source, monitor: Monitor) -> SignalsTable:
    """A signals table with exactly the bundle's signals, decoded as its own were. Raises: TableError."""
    widths = monitor.engine.loaded.widths
    if isinstance(source, SignalsTable):
        table = source
    elif isinstance(source, Mapping):
        table = SignalsTable.from_columns(source, widths)
    else:
        table = load_table(source, widths)
    check_origin(table, monitor.bundle.manifest)
    return replace(table, tolerance=monitor.bundle.manifest.policy.get("tolerance"))


def _evaluation(
    monitor: Monitor, pool: Pool, settings: Settings, digests: Mapping[str, str], notes: list[str], tick: Tick
) -> Evaluation:
    from demur import __version__

    manifest, asked = monitor.bundle.manifest, questions(pool)
    confidence, draws, seed = settings.confidence, settings.bootstrap, settings.seed
    rankings: list[Ranking] = []
    drawn: list[figures.Plot] = []
    bars: list[figures.Histogram] = []
    scopes: list[scope.Scope] = [scope.evaluate_scope(pool, scope.POLICY, None, pool.accept[pool.usable], confidence)]
    severities: list[Severity] = []
    usable = _resampler(pool, settings, pool.usable)
    columns = ranked_columns(monitor, pool)
    for column, name in columns:
        heard = _heard(tick, f"resampling {name}", draws, int(pool.usable.sum()))
        ranked, tally = rank(pool, column, asked, usable, heard)
        rankings += [_with_scod(pool, tally, q, r, settings) for q, r in zip(asked, ranked, strict=True)]
        drawn += figures.plots(pool, name, asked, tally)
        bars += figures.histograms(pool, column)
        scopes += _scope(pool, column, tally, confidence)
        severities += severities_of(pool, column, usable)
    losses, lost = graded_of(pool, columns, usable, settings, lambda name: _heard(tick, f"resampling {name}", draws))
    return Evaluation(
        Subject(manifest.monitor, manifest.version, monitor.bundle.digest, pool.unit, __version__),
        settings,
        tuple(name for _, name in columns),
        tuple(outcome.set_outcomes(pool, confidence, seed)),
        digests,
        tuple(outcome.pool_outcomes(pool, settings.costs, _resampler(pool, settings, None))),
        tuple(rankings),
        tuple(scopes),
        tuple(kept.kept_promises(manifest, pool.id, pool.unit, confidence, draws, seed)),
        _calibration(monitor, pool),
        tuple(severities),
        selection_of(monitor.bundle),
        (*(figures.operating(pool, question) for question in asked), *lost.operating),
        tuple(notes),
        (*drawn, *lost.plots),
        tuple(bars),
        losses,
    )


def ranked_columns(monitor: Monitor, pool: Pool) -> list[tuple[int, str]]:
    """(place, name) of every score column, without those that repeat a score with another calibration table."""
    seen: dict[tuple[str, str | None], tuple[int, str]] = {}
    for column in monitor.bundle.manifest.columns:
        if column.name in pool.columns:
            seen.setdefault((column.score, column.aggregate), (pool.columns.index(column.name), column.name))
    return sorted(seen.values())


def _resampler(pool: Pool, settings: Settings, chosen: Any) -> Resampler | None:
    rows = slice(None) if chosen is None else chosen
    cluster = None if pool.cluster is None else pool.cluster[rows]
    resampler = Resampler(pool.table[rows], cluster, settings.bootstrap, settings.seed, settings.confidence)
    return resampler if settings.bootstrap else None


def _with_scod(pool: Pool, tally: Tally, question: Question, ranking: Ranking, settings: Settings) -> Ranking:
    """The SCOD numbers of a question about novel sets, which have no interval."""
    units = open_set_of(pool, tally, question)
    if units is None or not units.ranked.bad_total or not units.ranked.good_total + units.wrong.sum():
        return ranking  # nothing of one side has a score
    more = {
        "scod_aurc": Estimate(open_set.joint_aurc(units, settings.novel_share)),
        "scod_least_risk": Estimate(open_set.least_joint_risk(units, settings.costs)),
    }
    return Ranking(**{**vars(ranking), "metrics": {**ranking.metrics, **more}})


def _scope(pool: Pool, column: int, tally: Tally, confidence: float) -> list[scope.Scope]:
    good = tally.counts[scope.good_atoms(pool)].sum(axis=0)
    if not good.any():
        return []
    threshold = scope.scope_threshold(tally.scores, good)
    accept = pool.scores(column) <= threshold
    return [scope.evaluate_scope(pool, pool.columns[column], threshold, accept, confidence)]


def _calibration(monitor: Monitor, pool: Pool) -> dict[str, Uniformity]:
    """Of a sliced column as if all its tables were as short as the shortest. Not of one that is chosen on its own rows, whose
    p-values are uniform on average over calibration draws alone.
    """
    manifest = monitor.bundle.manifest
    chosen = {s.name for s in manifest.scores if s.type == kept.STOPPED}
    units = {c.name: min(c.units, default=0) for c in manifest.columns if c.score not in chosen}
    chances = pool.id.p_values[~pool.id.broken]
    if not len(chances):
        return {}
    held = Evidence.of(monitor.bundle)
    known = [i for i, n in enumerate(pool.columns) if units.get(n) and not np.isnan(chances[:, i]).any()]
    return {n: _uniformity(chances[:, i], units[n], held, n) for i, n in ((i, pool.columns[i]) for i in known)}


def _uniformity(chances: Any, units: int, held: Evidence, column: str) -> Uniformity:
    """Where p-values come from several tables, or from one that weighs rows, those that are seen stand for those that can come."""
    scores = {**held.fold_a, **held.scores}.get(column, ())
    levels = attainable(scores) if len(scores) == units else np.unique(chances)
    return uniformity(chances, units, levels)


def _heard(tick: Tick, stage: str, total: int, each: int = 1) -> Any:
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more * each
        tick(stage, done, total * each)

    return report


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise EvaluationError(f"novel_share: expected a share strictly between 0 and 1, got {value}")
    return value
