"""Test accuracy of scikit-learn's classifiers on what a run's encoders read.

python studies/beside_sklearn.py --dataset DIR [any flag of code/train.py]

Each modality alone, and all side by side, go to logistic regression and to a random forest: flat,
arrays standardised as in training, padding at the mean, pictures at --image_size.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from mmpareto.system import entry

import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmpareto.data.samples import Split, to_device
from mmpareto.run import options, setup

CLASSIFIERS = {
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "random forest": RandomForestClassifier(500, random_state=0),
}


def flat(split: Split) -> dict[str, torch.Tensor]:
    """Return {modality: (n, numbers of a sample)}, and "joint" for all side by side."""
    inputs = to_device(split.read(list(range(len(split))))[0], torch.device("cpu"))
    each = {name: x.flatten(1).nan_to_num(0) for name, x in inputs.items()}
    return each | {"joint": torch.cat(list(each.values()), dim=1)}


def main(words: list[str]) -> None:
    data = setup.load_data(options.parse(words))
    train, test = data.splits["train"], data.splits["test"]
    fitted, scored = flat(train), flat(test)
    print(f"{data.name}, identity {data.identity}: train {len(train)}, test {len(test)}")
    for name in fitted:
        found = []
        for title, model in CLASSIFIERS.items():
            model.fit(fitted[name], train.targets)
            found.append(f"{title} {model.score(scored[name], test.targets):.4f}")
        print(f"{name:12} {', '.join(found)}", flush=True)


if __name__ == "__main__":
    entry.run(main)
