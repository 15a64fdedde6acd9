"""ModelNet40: two of twelve shaded views of each object, from the front and from the rear."""

import re
from argparse import Namespace
from pathlib import Path

from ..data.clips import Clip, Problem, Raw, Source, files_below
from ..system.errors import UserError
from .shared.prepared import Prepared

CLASSES = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone",
    "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard",
    "lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio",
    "range_hood", "sink", "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase",
    "wardrobe", "xbox",
)  # fmt: skip
MODALITIES = {"front": 1, "rear": 7}  # numbers of views in file names: 0 and 6, counted from 0
NAME = re.compile(
    r"([A-Z][A-Z0-9_.-]{,120}_[0-9]+)\.obj\.shaded_v([0-9]{3})\.(png|jpg)", re.IGNORECASE | re.ASCII
)


class ModelNet40(Prepared):
    """12,311 objects in 40 classes, with the published training and test part."""

    name = "modelnet40"
    recipes = {"images": "original"}
    stills = None
    hint = "data/modelnet40/README.md says where the views are"

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        pairs = [(label, part) for label in CLASSES for part in ("train", "test")]
        folders = {pair: folder for pair in pairs if (folder := flags.raw.joinpath(*pair)).is_dir()}
        if not folders:
            meant = next((path.parent for path in flags.raw.glob("*/airplane")), None)
            hint = f": did you mean {meant}?" if meant else f"; {cls.hint}"
            raise UserError(
                f"--raw {flags.raw}: no folders CLASS/train and CLASS/test, as airplane/train, "
                f"in it{hint}"
            )
        clips, left_out, listed, others = [], {}, {}, 0
        for (label, part), folder in folders.items():
            views: dict[str, dict[int, Path]] = {}
            for path in files_below(folder, ".png", ".jpg"):
                if match := NAME.fullmatch(path.name):
                    views.setdefault(match[1], {})[int(match[2])] = path
                else:
                    others += 1
            for id, found in views.items():
                listed[id] = part, label
                if found.keys() != set(range(1, 13)):
                    detail = f"views {' '.join(map(str, sorted(found)))} found, 1 to 12 expected"
                    left_out[id] = Problem("", "views_missing", detail)
                else:
                    sources = {m: Source("image", found[n]) for m, n in MODALITIES.items()}
                    clips.append(Clip(id, label, "", sources))
        unknown = sorted({p.name for p in flags.raw.iterdir() if p.is_dir()} - {*CLASSES})
        more = f"; folders of no class: {', '.join(unknown[:10])}" if unknown else ""
        notes = [
            f"{len(clips)} objects with 12 views, {len(left_out)} left out, {others} files ignored",
            f"{len({label for label, _ in folders})} of {len(CLASSES)} classes{more}",
        ]
        return Raw(
            cls.name, cls.hint, list(CLASSES), dict.fromkeys(MODALITIES, "image"), clips, left_out,
            {"official": listed}, notes=notes,
        )  # fmt: skip
