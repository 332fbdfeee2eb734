"""Turns the cells into what one reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from floor import FLOOR
from loops import OURS
from measure import Cell, quartiles, ratio, ratios


@dataclass(frozen=True)
class Result:
    """One row under one malloc setting. Nanoseconds are told as microseconds."""

    name: str
    group: str
    unit: str
    malloc: str
    cells: Mapping[str, Cell]

    def best(self, names: Iterable[str]) -> str | None:
        """The cheapest of these loops."""
        running = [name for name in names if name in self.cells and self.cells[name].ok]
        return min(running, key=lambda name: self.cells[name].median, default=None)

    def figure(self, name: str) -> str:
        """What it cost one of them."""
        value = self.cells[name].median
        return f"{value:.0f} {self.unit}" if self.unit == "bytes" else figure(value / 1000)

    def rivals(self) -> list[str]:
        return [name for name in self.cells if name not in (FLOOR, OURS)]


def render(header: Sequence[str], lines: Sequence[Sequence[str]], markdown: bool) -> str:
    """Columns aligned: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(fields: Sequence[str]) -> str:
        padded = [
            field.rjust(width) if index else field.ljust(width)
            for index, (field, width) in enumerate(zip(fields, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded)

    rule = [("-" * (width - 1) + ":") if index else "-" * width for index, width in enumerate(widths)]
    second = line(rule) if markdown else "-" * len(line(header))
    return "\n".join([line(header), second, *map(line, lines)])


def figure(microseconds: float) -> str:
    """Three digits that matter."""
    for limit, digits in ((10, 2), (100, 1)):
        if microseconds < limit:
            return f"{microseconds:.{digits}f}"
    return f"{microseconds:.0f}"


def costs(results: Sequence[Result], columns: Sequence[str], markdown: bool) -> str:
    """What an operation costs; the cheapest contender is marked, the floor is none."""
    lines = []
    for result in results:
        best = result.best(name for name in columns if name != FLOOR)
        fields = [result.name]
        for name in columns:
            cell = result.cells.get(name)
            if cell is None:
                fields.append("")
            elif not cell.ok:
                fields.append(f"fails: {cell.error}")
            else:
                fields.append(result.figure(name) + ("*" if name == best else " "))
        lines.append(fields)
    units = {result.unit for result in results} - {"bytes"}
    return render(
        ["µs CPU" if units == {"cpu"} else "µs wall" if units == {"wall"} else "µs", *columns], lines, markdown
    )


def relative(results: Sequence[Result], columns: Sequence[str], base: str, markdown: bool) -> str:
    """Every cell as a multiple of one column."""
    lines = []
    for result in results:
        if base not in result.cells or not result.cells[base].ok:
            continue
        fields = [result.name]
        for name in columns:
            cell = result.cells.get(name)
            if cell is None:
                fields.append("")
            else:
                fields.append(f"{ratio(cell, result.cells[base]):.2f}" if cell.ok else "-")
        lines.append(fields)
    return render([f"ratio to {base}", *columns], lines, markdown) if lines else ""


def losses(results: Sequence[Result], markdown: bool) -> str:
    """The rows in which a rival is cheaper than ropewalk, or ropewalk fails."""
    lines, won, total = [], 0, 0
    for result in results:
        best = result.best(result.rivals())
        ours = result.cells.get(OURS)
        if ours is None or best is None:
            continue
        total += 1
        theirs = result.cells[best]
        if not ours.ok:
            lines.append([result.name, result.malloc, f"fails: {ours.error}", best, "", "", ""])
            continue
        value = ratio(ours, theirs)
        if value <= 1:
            won += 1
            continue
        low, high = quartiles(ratios(ours, theirs))
        lines.append(
            [
                result.name,
                result.malloc,
                result.figure(OURS),
                best,
                result.figure(best),
                f"{value:.2f}",
                f"{low:.2f}-{high:.2f}" + (" (within noise)" if low <= 1 else ""),
            ]
        )
    if not total:
        return ""
    text = f"rows we lose: {len(lines)} of {total}"
    if lines:
        header = ["row", "malloc", OURS, "best rival", "its µs", "ratio", "middle half"]
        text += "\n\n" + render(header, lines, markdown)
    return text


def report(results: Sequence[Result], columns: Sequence[str], bases: Sequence[str], markdown: bool) -> str:
    """Everything, one malloc setting after the other, what we lose at the end."""
    parts = []
    kinds = dict.fromkeys((result.malloc, result.group, result.unit == "wall") for result in results)
    for malloc, group, wall in kinds:
        chosen = [one for one in results if (one.malloc, one.group, one.unit == "wall") == (malloc, group, wall)]
        present = [name for name in columns if any(name in result.cells for result in chosen)]
        title = f"{group}{', wall-clock' if wall else ''}, malloc: {malloc}"
        parts.append(f"## {title}" if markdown else f"== {title} ==")
        parts.append(costs(chosen, present, markdown))
        parts += [relative(chosen, present, base, markdown) for base in bases if base in present]
    parts.append(losses(results, markdown))
    return "\n\n".join(part for part in parts if part)
