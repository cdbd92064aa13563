"""What a run found, as Markdown: sections with a table each, and the goals, met or missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NOTES = "## Notes\n"


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` has to be at most `most`."""

    what: str
    value: float
    most: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.most

    def row(self) -> tuple[str, str, str, str]:
        said = "met" if self.met else "**missed**"
        value = f"{self.value:.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return (self.what, f"{value} {self.unit}".strip(), f"≤ {self.most:g} {self.unit}".strip(), said)


@dataclass(frozen=True, slots=True)
class Section:
    """One figure."""

    title: str
    text: str
    table: str
    goals: Sequence[Goal] = field(default=())

    def markdown(self) -> str:
        return f"## {self.title}\n\n{self.text}\n\n{self.table}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """Lowest and highest."""
    return f"{min(values):{form}}-{max(values):{form}}"


def notes(page: Path) -> str:
    """What people wrote below the figures of `page`: it is kept when they are taken anew."""
    if not page.exists():
        return ""
    _, marker, text = page.read_text().partition(NOTES)
    return "\n" + marker + text if marker else ""


def document(machine: Mapping[str, str], sections: Sequence[Section], skipped: Mapping[str, str]) -> str:
    """The whole page."""
    goals = [goal.row() for section in sections for goal in section.goals]
    parts = [
        "# Figures\n",
        "Written by `make bench`. Ratios carry over to other machines, absolute figures do not.\n",
        table(("", ""), list(machine.items())) + "\n",
    ]
    if goals:
        parts.append(table(("goal", "measured", "wanted", ""), goals) + "\n")
    parts += [section.markdown() for section in sections]
    if skipped:
        left_out = [f"- {name}: {why}" for name, why in skipped.items()]
        parts.append("## Left out\n\n" + "\n".join(left_out) + "\n")
    return "\n".join(parts)
