"""Make docs/flags.md from the parsers of code/train.py: run this file to write it anew."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/flags.md"
START = """# Flags of code/train.py

`python code/train.py --help` shows the general flags, and the flags of the method, fusion and
dataset that you choose. A flag of a part is an error with another part. The scripts in `script/`
and `code/compare.py` take these flags, too. This page is generated:
`python tests/repo/flags_page.py` writes it anew.
"""
# The ten that matter first, in the order in which a newcomer needs them.
FIRST = "dataset method encoder epochs batch_size learning_rate random_seed device out resume"
HEADINGS = {
    "method": "Flags of methods",
    "fusion": "Flags of fusions",
    "dataset": "Flags of datasets",
}


def page(parsers):
    """Return the page's text; parsers is mmpareto.run.parsers."""
    lines, general = [START], parsers.general_parser()
    groups = {g.title: list(rows_of(general, g._group_actions)) for g in general._action_groups}
    first = [general._option_string_actions[f"--{name}"] for name in FIRST.split()]
    for title, rows in {"the ten that matter first": [*rows_of(general, first)], **groups}.items():
        if rows:
            lines += [f"## {title.capitalize()}\n", "| flag | meaning |", "|---|---|"]
            lines += [f"| {flag} | {meaning} |" for flag, meaning in rows] + [""]
    for registry in parsers.WITH_FLAGS:
        kind = registry.kind
        lines += [f"## {HEADINGS[kind]}\n", f"| `--{kind}` | flag | meaning |", "|---|---|---|"]
        for name in registry:
            parser = parsers.part_parser(registry, name)
            group = parser._action_groups[-1]
            rows = list(rows_of(parser, group._group_actions))
            if group.description:
                rows.insert(0, ("", group.description))
            for i, (flag, meaning) in enumerate(rows):
                lines.append(f"| {'' if i else f'`{name}`'} | {flag} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def rows_of(parser, actions):
    """Yield (flag, meaning) of flags, as the parser's help shows them."""
    formatter = parser._get_formatter()
    for action in actions:
        if "--help" not in action.option_strings:
            value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
            value = value.strip("{}").replace(",", " or ") if action.choices else value
            names = " or ".join(f"`{f'{name} {value}'.strip()}`" for name in action.option_strings)
            yield names, formatter._expand_help(action)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "code"))
    from mmpareto.run import parsers

    PAGE.write_text(page(parsers), encoding="utf-8")
