"""The parts of a page, and the pictures and CSV files beside it."""

from argparse import Namespace
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...data.batches import loader
from ...run import checkpoint, scores
from ...system.errors import UserError
from ...system.tables import quote_formula, write_table
from .. import figures
from . import fixed, logs, panels
from .fixed import Looked, Unfit
from .logs import LAST, Logs
from .page import Confusion, Picture, Section, Table
from .subject import Subject

FORMS = ("png", "svg")  # the page takes the last
EPOCHS_SHOWN = 12  # rows of a conflict table; longer runs show groups of epochs
FIXED = "Gradients of fixed encoders"


class Work(NamedTuple):
    """What is analysed, and where to."""

    subject: Subject
    folder: Path
    window: int  # steps that a conflict rate is taken over

    def draw(self, name: str, caption: str, figure: Callable, *arguments) -> Picture:
        paths = [self.folder / f"{name}.{form}" for form in FORMS]
        figures.write(paths, figure, *arguments)
        svg = b64encode(paths[-1].read_bytes()).decode()
        return Picture(f"data:image/svg+xml;base64,{svg}", caption)

    def name(self, kind: str, run: Logs) -> str:
        """The name of a figure's file; a comparison has one of each kind for several runs."""
        return kind if len(self.subject.runs) == 1 else f"{kind}-{run.folder.name}"

    def write(self, name: str, rows: list[dict]) -> None:
        write_table(self.folder / f"{name}.csv", list(rows[0]), rows)


def make(subject: Subject, folder: Path, flags: Namespace) -> list[Section]:
    """All parts; what needs models comes first, so that nothing is written where that fails."""
    looked, why_not = look(subject, flags)
    matrices = confusions(subject, flags)
    work = Work(subject, folder, flags.window)
    return [
        results(work), training(work), conflicts(work), magnitudes(work, looked, why_not),
        predictions(flags.part, matrices), settings(subject),
    ]  # fmt: skip


def look(subject: Subject, flags: Namespace) -> tuple[list[Looked], str]:
    """The checkpoints that --checkpoints names, or a run's own last one; or why there is none."""
    if flags.logs_only:
        return [], "Not measured, because --logs_only was given."
    if flags.checkpoints:
        return _look(flags.checkpoints, flags), ""
    if len(subject.first) > 1:
        return [], "Not measured: give checkpoints of these or other runs with --checkpoints."
    try:
        return _look([subject.first[0].folder / LAST], flags), ""
    except Unfit as error:
        return [], str(error)


def _look(paths: list[Path], flags: Namespace) -> list[Looked]:
    looked: dict[str, Looked] = {}
    for path in paths:
        model = checkpoint.load(path, flags)
        label = f"{model.flags.method}, seed {model.flags.random_seed}, epoch {model.epoch}"
        label = f"{label} ({path})" if label in looked else label
        objectives = model.data.tasks or ("joint", "unimodal")
        found = fixed.look(model, path, flags.workers, flags.limit_batches)
        looked[label] = Looked(label, model.flags.batch_size, objectives, found)
        first = next(iter(looked.values())).encoders
        if found.keys() != first.keys():
            raise UserError(
                f"--checkpoints {path}: it has encoders {', '.join(found)}, the first has "
                f"{', '.join(first)}: give checkpoints of the same modalities"
            )
    return list(looked.values())


def confusions(subject: Subject, flags: Namespace) -> list[Confusion]:
    """Confusion matrices of each method's first seed at its chosen epoch; none with --logs_only."""
    found: list[Confusion] = []
    for run in subject.first if not flags.logs_only else ():
        trained = checkpoint.load(run.checkpoint, flags)
        whose = f"{run.label}: " if len(subject.first) > 1 else ""
        part, size = trained.part(flags.part), trained.flags.batch_size
        batches = loader(part, size, workers=flags.workers)
        predicted = scores.predict(trained.model, batches, trained.device, flags.limit_batches)
        predictions, targets, *_ = predicted
        classes = trained.data.classes
        for name, counts in scores.confusion(predictions, targets, len(classes)).items():
            is_open = name == scores.JOINT or bool(trained.data.tasks)
            name = f"{whose}{name} prediction, epoch {trained.epoch}"
            found.append(Confusion(name, classes, counts.tolist(), is_open))
    return found


def results(work: Work) -> Section:
    subject, pictures = work.subject, []
    if len(subject.runs) > 1:
        caption = (
            "Accuracy of the joint prediction against that of one modality's own: mean and "
            f"standard deviation over {subject.units}, {subject.rule} epoch; dashed: trained by "
            "that loss alone."
        )
        drawn = subject.percents, subject.single_losses, subject.rule
        pictures.append(work.draw("plane", caption, panels.plane, *drawn))
    tables = [Table("Test accuracy (%)", subject.scores)] if subject.scores else []
    return Section("Results", subject.notes, tables, pictures)


def training(work: Work) -> Section:
    caption = "By epoch; of several runs the mean, and the range of all."
    if len(work.subject.runs) > 1:
        caption += (
            " The loss is that of the joint prediction alone: what the methods minimise are sums "
            "of different numbers of losses."
        )
    picture = work.draw("curves", caption, panels.curves, work.subject.runs)
    return Section("Training", pictures=[picture])


def conflicts(work: Work) -> Section:
    """Show panel (a) and the chosen weights; write every window to conflicts.csv."""
    tables, pictures, rows = [], [], []
    for run in (run for run in work.subject.first if run.encoders):
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
    if not tables:
        note = (
            "No run has recorded both gradients of its encoders. Methods that integrate gradients "
            "record them, and so does uniform with --observe."
        )
        return Section("Conflicts", [note])
    work.write("conflicts", rows)
    note = f"Conflict: cos <= 0. Every window of {work.window} steps stands in conflicts.csv."
    return Section("Conflicts", [note], tables, pictures, on_console=True)


def _conflict_table(run: Logs) -> Table:
    blank = {"epoch": ""} | {key: "-" for n in run.encoders for key in (n, f"cos {n}")}
    rows: dict[str, dict[str, str]] = {}
    for name in run.encoders:
        steps = logs.trace(run, name)
        groups = [(_span(group), group) for group in logs.by_epoch(steps, EPOCHS_SHOWN)]
        for title, group in [*groups, *(("all", whole) for whole in logs.by_epoch(steps, 1))]:
            row = rows.setdefault(title, blank | {"epoch": title})
            row[name] = f"{group['conflict']:.1%}"
            row[f"cos {name}"] = "-" if group["cos"] is None else f"{group['cos']:.2f}"
    return Table(f"{run.label}: conflict rate and mean cosine", list(rows.values()))


def _span(group: dict) -> str:
    first, last = group["first"], group["last"]
    return str(first) if first == last else f"{first}-{last}"


def magnitudes(work: Work, looked: list[Looked], why_not: str) -> Section:
    """Show panel (d); write gradients.csv, and gradients_batches.csv with every batch."""
    if not looked:
        return Section(FIXED, [why_not])
    for name, rows_of in (("gradients", Looked.numbers), ("gradients_batches", Looked.batches)):
        rows = [{"checkpoint": one.label, **row} for one in looked for row in rows_of(one)]
        work.write(name, rows)
    note = (
        "One pass over the training set with the encoders held fixed: mean and variance (n - 1) of "
        "each batch's gradient norm, and the trace of the gradients' covariance, E|g|^2 - |E g|^2."
    )
    tables = [_magnitude_table(one) for one in looked]
    caption = "How many batches have which gradient norm; dashed: their mean."
    picture = work.draw("gradients", caption, panels.magnitudes, looked)
    return Section(FIXED, [note], tables, [picture], on_console=True)


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
        return Section("Confusion matrices", ["Not made, because --logs_only was given."])
    note = f"Split {part}. Click a name to open or close its matrix."
    return Section("Confusion matrices", [note], confusions=matrices)


def settings(subject: Subject) -> Section:
    config = subject.first[0].config
    noted = {**vars(config), **config.further}
    kept = [name for name in ("commit", "threads", "processes", "machine") if name in noted]
    known = {**config.versions, **{name: noted[name] for name in kept}}
    tables = [
        Table(caption, [{"name": name, "value": str(value)} for name, value in values.items()])
        for caption, values in (
            ("Flags that all runs have in common", subject.settings()),
            (f"Environment of {subject.first[0].label}", known),
        )
    ]
    commands = [past["command"] for run in subject.first for past in run.config.past()]
    return Section("Settings", tables=tables, commands=list(dict.fromkeys(commands)))
