"""studies/agreement.py on toy data."""

import re

import agreement


def test_agreement(capsys, toys):
    agreement.main(["--", "--dataset", "toy", "--encoder", "cnn", "--epochs", "1"])
    out = capsys.readouterr().out
    assert re.search(r"^a: 6 steps; correlation of cosines -?\d\.\d\d; same branch \d+", out, re.M)
