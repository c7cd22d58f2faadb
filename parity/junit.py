"""The run as JUnit XML: a test case a parity case."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from .report import summary
from .run import ERROR, FAILED, SKIPPED, Outcome
from .table import describe

TAGS = {FAILED: "failure", ERROR: "error", SKIPPED: "skipped"}
# Characters XML 1.0 has no way to write; a traceback may hold terminal escapes.
UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(outcomes: Sequence[Outcome], suite: str) -> str:
    """One testsuite with every case; failing comparisons and reasons as text."""
    counts = summary(outcomes)
    root = ElementTree.Element(
        "testsuite",
        name=f"parity.{suite}",
        tests=str(len(outcomes)),
        failures=str(counts["failed"]),
        errors=str(counts["errors"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    )
    for outcome in outcomes:
        element = ElementTree.SubElement(
            root,
            "testcase",
            classname=f"parity.{suite}",
            name=outcome.case.name,
            time=f"{outcome.seconds:.3f}",
        )
        if outcome.status in TAGS:
            reason = UNSPEAKABLE.sub("?", outcome.reason)
            detail = ElementTree.SubElement(element, TAGS[outcome.status], message=reason.splitlines()[0])
            detail.text = "\n".join([reason, *(describe(pair) for pair in outcome.pairs if pair.red)])
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
