"""Reference pages made from the code that they describe."""

from __future__ import annotations

from pyflannel.cli.options import FLAGS

_HEAD = """\
# flanneld's flags

Made by `tools/gen-docs`. Each flag can be given as `--name value`, `--name=value`, `-name value` or `-name=value`, and
as the variable `FLANNELD_` and its name in capitals, with `_` for `-`; the command line wins. *done* means: as flannel
v0.28's; *ours*: flannel has none; *no effect*: accepted, so that a unit file keeps working; *not yet*: it belongs to
the Kubernetes store, which this version lacks.

| flag | default | status | meaning | difference from flannel |
| --- | --- | --- | --- | --- |
"""


def flags_page() -> str:
    """docs/reference/flags.md."""
    rows = []
    for flag in FLAGS:
        default = (
            ""
            if flag.default in ("", ())
            else f"`{str(flag.default).lower() if flag.kind == 'bool' else flag.default}`"
        )
        rows.append(f"| `{flag.name}` | {default} | {flag.status} | {flag.help} | {flag.note} |\n")
    return _HEAD + "".join(rows)
