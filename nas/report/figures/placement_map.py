"""The placement map: which layers have ties, against what the networks score."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.report.figures._style import BLUE, GREY, INK, PALE, WIDTH_INCHES, axis_label, note, styled
from nas.report.findings import Candidate, Findings, Objective, Place
from nas.report.numerals import count

MAX_ROWS = 60
"""A placement map of more networks shows the best of them; the table has all."""
_HOW_TO_READ_EFFECTS = (
    "Dot and bar: mean of the networks with\n"
    "a tie at that layer minus mean of those\n"
    "without, 95 % interval. The search chose\n"
    "the networks, so this is what goes with a\n"
    "tie, not yet what it causes."
)


@styled
def draw_placement_map(findings: Findings) -> Figure:
    """Which layers have ties, network by network, beside the metric; below, what a tie at each layer goes with."""
    ranked, columns = findings.candidates[:MAX_ROWS], [m.place for m in findings.marginals]
    if not columns or not any(candidate.ties for candidate in ranked):
        return note("no network with ties has run to its full budget yet")
    rows_inches, effect_inches = max(1.0, 0.2 * len(ranked)), 1.9
    figure = Figure(figsize=(WIDTH_INCHES, rows_inches + effect_inches + 1.5), layout="constrained")
    grid = figure.add_gridspec(
        2,
        2,
        height_ratios=[rows_inches, effect_inches],
        width_ratios=[max(1.2, min(2.4, len(columns) / 5)), 1],
    )
    tied = figure.add_subplot(grid[0, 0])
    scores = figure.add_subplot(grid[0, 1], sharey=tied)
    effects = figure.add_subplot(grid[1, 0], sharex=tied)
    shown = (
        f"best {len(ranked)} of {len(findings.candidates)} networks"
        if len(ranked) < len(findings.candidates)
        else "best network on top"
    )
    tied.set_title(f"ties (filled), {shown}")
    _draw_ties(tied, ranked, columns)
    _draw_scores(scores, ranked, findings.metric)
    _draw_effects(effects, findings)
    corner = figure.add_subplot(grid[1, 1])
    corner.axis("off")
    corner.text(
        0,
        0.95,
        _HOW_TO_READ_EFFECTS + _stopped(findings),
        va="top",
        ha="left",
        fontsize=8.5,
        linespacing=1.5,
        color=INK,
    )
    return figure


def _stopped(findings: Findings) -> str:
    stopped = sum(stage.stopped for stage in findings.stages if stage.name == findings.placement_stage)
    return f"\nNot shown: {count(stopped, 'trial')} stopped early." if stopped else ""


def _draw_ties(axes: Axes, ranked: Sequence[Candidate], columns: Sequence[Place]) -> None:
    is_tied = np.array(
        [[place.is_tied(candidate.ties) for place in columns] for candidate in ranked], dtype=float
    )
    axes.imshow(is_tied, cmap=ListedColormap(["#F4F4F4", BLUE]), vmin=0, vmax=1, aspect="auto")
    if columns[0].stream == "text":
        axes.axvline(sum(place.stream == "text" for place in columns) - 0.5, color=INK, lw=1.5)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(ranked)) - 0.5, minor=True)
    axes.grid(which="major", visible=False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.tick_params(axis="x", labelbottom=False, bottom=False)
    axes.set_yticks(range(len(ranked)), [_row_label(candidate) for candidate in ranked], fontsize=8)
    axes.spines[:].set_visible(False)


def _row_label(candidate: Candidate) -> str:
    join = candidate.name.partition(" · ")[2]
    return f"{join}  #{candidate.number}" if len(join) <= 14 else f"#{candidate.number}"


def _draw_scores(axes: Axes, ranked: Sequence[Candidate], metric: Objective) -> None:
    values = [candidate.values[metric.name] for candidate in ranked]
    heights = range(len(ranked))
    worst = min(values) if metric.direction == "max" else max(values)
    axes.hlines(heights, worst, values, color=PALE, lw=2)
    axes.plot(values, heights, "o", color=INK, ms=4.5)
    axes.tick_params(axis="y", which="both", labelleft=False, left=False)
    axes.set_xlabel(axis_label(metric, "validation"))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)


def _draw_effects(axes: Axes, findings: Findings) -> None:
    axes.axhline(0, color=GREY, lw=1)
    for place, marginal in enumerate(findings.marginals):
        difference = marginal.difference
        if difference is None:
            continue
        if difference.is_known:
            axes.vlines(place, difference.low, difference.high, color=BLUE, lw=2)
        filled = BLUE if difference.is_known else "white"
        axes.plot(place, difference.mean, "o", mfc=filled, mec=BLUE, ms=6)
    labels = [str(marginal.place) for marginal in findings.marginals]
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 16 else 0)
    are_equal_layers = findings.marginals[0].place.stream == "both"
    axes.set_xlabel(
        "layer of the tie, in both streams" if are_equal_layers else "layer with a tie (t: text, v: vision)"
    )
    axes.set_ylabel(f"with − without\n({findings.metric.words})")
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.spines["bottom"].set_visible(False)
    if not any(marginal.difference for marginal in findings.marginals):
        axes.text(0.5, 0.6, "needs networks with and\nwithout a tie at a layer", transform=axes.transAxes,
                  ha="center", va="center", fontsize=8.5, color=GREY)  # fmt: skip
        axes.set_yticks([])
