"""studies/agreement.py on toy data and by hand."""

import re

import agreement


def test_agreement(capsys, toys):
    agreement.main(
        ["--seeds", "0-1", "--", "--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]
    )
    out = capsys.readouterr().out
    assert re.search(r"^a: 12 steps, \d+ in conflict; correlation of cosines -?\d\.\d\d; ", out)
    assert re.search(r"^together: 24 steps, ", out, re.MULTILINE)


def test_counts():
    """The last conflict comes where the features have never announced one."""
    calm = [(0.9, 0.9), (0.8, 0.8)] * 20
    found = agreement.met([[(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), *calm], [*calm, (0.9, -0.5)]])
    assert found.startswith("84 steps, 3 in conflict; ")
    assert "features meet 1 of them, and see 1 others; " in found and found.endswith(" meets 2")
