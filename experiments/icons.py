"""Pictures of an icon set with their names, as a folder that `drrho ingest --source folder` takes.

    npm pack @iconify-json/mdi && tar xzf iconify-json-mdi-*.tgz
    python experiments/icons.py package/icons.json icons

Icons are drawn black on white, 32 pixels wide; the caption is the name ("account-alert.png": with caption_template "{words}").
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import resvg_py


def main() -> None:
    """Draw every icon of the set that is no alias and not hidden."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    icons = json.loads(source.read_text(encoding="utf-8"))
    for name, icon in icons["icons"].items():
        if icon.get("hidden"):
            continue
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" color="black" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        (folder / f"{name}.png").write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=32, background="white")))


if __name__ == "__main__":
    main()
