"""The parts of a page, and the pictures and CSV files beside it."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...run import checkpoint
from ...system.errors import UserError
from ...system.tables import quote_formula, write_table
from .. import figures
from . import confusion, fixed, logs, panels
from .confusion import Confusion
from .fixed import Fixed, Unfit
from .logs import LAST, Logs
from .page import Picture, Section, Table
from .subject import Subject

FORMS = ("png", "svg")  # the page takes the last
EPOCHS_SHOWN = 12  # rows of a conflict table; longer runs show groups of epochs


class Work(NamedTuple):
    """What is analysed, and where to."""

    subject: Subject
    folder: Path
    window: int  # steps that a conflict rate is taken over

    def draw(self, name: str, caption: str, figure: Callable, *arguments) -> Picture:
        paths = [self.folder / f"{name}.{form}" for form in FORMS]
        figures.write(paths, figure, *arguments)
        return Picture(paths[-1], caption)

    def name(self, kind: str, run: Logs) -> str:
        """Of a file; a comparison has one of each kind for several runs."""
        return kind if len(self.subject.runs) == 1 else f"{kind}-{run.folder.name}"


class Looked(NamedTuple):
    """A checkpoint whose encoders were held fixed."""

    label: str
    batch_size: int
    objectives: tuple[str, ...]  # both losses' names
    encoders: dict[str, Fixed]

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each encoder and loss."""
        return [
            {
                "encoder": name,
                "loss": objective,
                "batches": len(moments.norms),
                "batch_size": self.batch_size,
                "mean": moments.mean,
                "variance": moments.variance,
                "trace": moments.trace,
                "conflict": found.conflict,
            }
            for name, found in self.encoders.items()
            for objective, moments in zip(self.objectives, found[:2], strict=True)
        ]

    def batches(self) -> list[dict[str, Any]]:
        """A row for each encoder and batch."""
        return [
            {"encoder": name, "batch": batch, "joint_norm": j, "unimodal_norm": g, "cos": cos}
            for name, found in self.encoders.items()
            for batch, (j, g, cos) in enumerate(
                zip(found.joint.norms, found.unimodal.norms, found.cosines, strict=True), start=1
            )
        ]


def look(subject: Subject, flags: Namespace) -> tuple[list[Looked], str]:
    """The checkpoints that --checkpoints names, or a run's own last one; or why there is none."""
    if flags.logs_only:
        return [], "Not looked at, with --logs_only."
    if flags.checkpoints:
        return _look(flags.checkpoints, flags), ""
    if len(subject.first) > 1:
        return [], "Not looked at: name checkpoints of these or other runs with --checkpoints."
    path = subject.first[0].folder / LAST
    try:
        return _look([path], flags), ""
    except Unfit as error:
        return [], str(error)


def _look(paths: list[Path], flags: Namespace) -> list[Looked]:
    looked: dict[str, Looked] = {}
    for path in paths:
        model = checkpoint.load(path, flags)
        own, tasks = model.flags, model.data.tasks
        label = f"{own.method}, seed {own.random_seed}, epoch {model.epoch}"
        label = f"{label} ({path})" if label in looked else label
        found = fixed.look(model, path, flags.workers, flags.limit_batches)
        one = Looked(label, own.batch_size, tasks or ("joint", "unimodal"), found)
        before = next(iter(looked.values()), one)
        if one.encoders.keys() != before.encoders.keys():
            raise UserError(
                f"--checkpoints {path}: it has encoders {', '.join(one.encoders)}, the first has "
                f"{', '.join(before.encoders)}: give checkpoints of the same modalities"
            )
        looked[label] = one
    return list(looked.values())


def confusions(subject: Subject, flags: Namespace) -> list[Confusion]:
    """Of the first seed of every method, at the epoch that was chosen; none with --logs_only."""
    found: list[Confusion] = []
    if flags.logs_only:
        return found
    for run in subject.first:
        model = checkpoint.load(run.checkpoint, flags)
        for one in confusion.confusions(model, flags.part, flags.workers, flags.limit_batches):
            name = f"{one.name} prediction, epoch {model.epoch}"
            several = len(subject.first) > 1
            found.append(one._replace(name=f"{run.label}: {name}" if several else name))
    return found


def results(work: Work) -> Section:
    subject, pictures = work.subject, []
    if len(subject.series) > 1:
        caption = (
            "Accuracy of the joint prediction against that of one modality's own: mean and "
            f"standard deviation over seeds, {subject.rule} epoch; dashed: trained by that loss "
            "alone."
        )
        pictures.append(work.draw("plane", caption, panels.plane, subject.series, subject.rule))
    scores = [Table("Test accuracy (%)", subject.scores)] if subject.scores else []
    return Section("Results", subject.notes, scores, pictures)


def training(work: Work) -> Section:
    caption = "By epoch; of several seeds the mean, and the range of all."
    return Section(
        "Training", pictures=[work.draw("curves", caption, panels.curves, work.subject.series)]
    )


def conflicts(work: Work) -> Section:
    """(a), with the weights that were chosen; conflicts.csv has every window."""
    tables, pictures, rows = [], [], []
    observed = [run for run in work.subject.first if run.encoders]
    for run in observed:
        first, second = run.objectives
        caption = f"{run.label}: cosine of the {first} and the {second} gradient at every step."
        name = work.name("cosines", run)
        pictures.append(work.draw(name, caption, panels.cosines, run, work.window))
        if logs.varies(run):
            caption = f"{run.label}: how the two gradients were weighted, and scaled together."
            pictures.append(work.draw(work.name("weights", run), caption, panels.weights, run))
        tables.append(_conflict_table(run))
        rows += [
            {"run": quote_formula(run.label), "encoder": quote_formula(encoder), **window}
            for encoder in run.encoders
            for window in logs.windows(logs.trace(run, encoder), work.window)
        ]
    if not observed:
        note = (
            "No run has recorded its encoders' two gradients: methods that integrate them do, and "
            "uniform with --observe."
        )
        return Section("Conflicts", [note])
    write_table(work.folder / "conflicts.csv", list(rows[0]), rows)
    note = f"Conflict: cos <= 0. Every window of {work.window} steps stands in conflicts.csv."
    return Section("Conflicts", [note], tables, pictures, on_console=True)


def _conflict_table(run: Logs) -> Table:
    by_encoder = {name: logs.trace(run, name) for name in run.encoders}
    grouped = {name: logs.by_epoch(steps, EPOCHS_SHOWN) for name, steps in by_encoder.items()}
    rows: dict[str, dict[str, str]] = {}
    for name, groups in grouped.items():
        whole = logs.by_epoch(by_encoder[name], 1)
        for group, title in [(g, _span(g)) for g in groups] + [(g, "all") for g in whole]:
            row = rows.setdefault(title, {"epoch": title})
            row[name] = f"{group['conflict']:.1%}"
            row[f"cos {name}"] = "-" if group["cos"] is None else f"{group['cos']:.2f}"
    blank = {"epoch": ""} | {key: "-" for n in run.encoders for key in (n, f"cos {n}")}
    return Table(f"{run.label}: conflict rate and mean cosine", [blank | r for r in rows.values()])


def _span(group: dict) -> str:
    first, last = group["first"], group["last"]
    return str(first) if first == last else f"{first}-{last}"


def magnitudes(work: Work, looked: list[Looked], why_not: str) -> Section:
    """(d); gradients.csv has the numbers in full, gradients_batches.csv those of every batch."""
    if not looked:
        return Section("Gradients of fixed encoders", [why_not])
    for name, rows_of in (("gradients", Looked.numbers), ("gradients_batches", Looked.batches)):
        rows = [{"checkpoint": one.label, **row} for one in looked for row in rows_of(one)]
        write_table(work.folder / f"{name}.csv", list(rows[0]), rows)
    tables = [_magnitude_table(one) for one in looked]
    note = (
        "One pass over the training set with the encoders held fixed: mean and variance (n - 1) of "
        "each batch's gradient norm, and the trace of the gradients' covariance, E|g|^2 - |E g|^2."
    )
    by_label = {one.label: one.encoders for one in looked}
    caption = "How many batches have which gradient norm; dashed: their mean."
    picture = work.draw("gradients", caption, panels.magnitudes, by_label, looked[0].objectives)
    return Section("Gradients of fixed encoders", [note], tables, [picture], on_console=True)


def _magnitude_table(one: Looked) -> Table:
    rows = one.numbers()
    caption = f"{one.label}: {rows[0]['batches']} batches of {rows[0]['batch_size']}, encoder fixed"
    shown = [name for name in rows[0] if name not in ("batches", "batch_size")]
    return Table(caption, [{name: _short(name, row[name]) for name in shown} for row in rows])


def _short(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if name == "conflict" else f"{value:.4g}"
    return str(value)


def predictions(part: str, matrices: list[Confusion]) -> Section:
    if not matrices:
        return Section("Confusion matrices", ["Not made, with --logs_only."])
    note = f"Split {part}; a row is the true class, a column the predicted one."
    return Section("Confusion matrices", [note], confusions=matrices)


def settings(subject: Subject) -> Section:
    run = subject.first[0]
    kept = ("commit", "threads", "processes", "machine")
    noted = {**vars(run.config), **run.config.further}
    known = {**run.config.versions, **{k: noted[k] for k in kept if k in noted}}
    tables = [
        Table(caption, [{"name": name, "value": str(value)} for name, value in values.items()])
        for caption, values in (
            ("Flags that all runs have in common", subject.settings()),
            (f"Environment of {run.label}", known),
        )
    ]
    commands = [past["command"] for run in subject.first for past in run.config.past()]
    return Section("Settings", tables=tables, commands=list(dict.fromkeys(commands)))
