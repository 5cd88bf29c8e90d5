"""The Pareto front: the deciding metric against the cost, coloured by alignment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, ScalarFormatter

from nas.objectives import words
from nas.report.figures._style import GREY, INK, ORANGE, PALE, WIDTH_INCHES, axis_label, note, styled
from nas.report.findings import Candidate, Findings, Objective, pareto_front

_LABEL_WIDTH, _LABEL_HEIGHT = 24.0, 9.5  # points


@styled
def draw_pareto_front(findings: Findings) -> Figure:
    """The deciding metric against the cost, coloured by alignment; networks on the front carry their number."""
    metric, across, colour = _pareto_axes(findings)
    if across is None:
        return note("no network of the placement stage has run to its full budget yet")
    shown = [c for c in findings.candidates if np.isfinite(c.values.get(across.name, np.nan))]
    figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
    axes = figure.subplots()
    _front_line(axes, shown, metric, across)
    on_front = {candidate.network for candidate in findings.front}
    for ringed in (False, True):
        group = [c for c in shown if (c.network in on_front) == ringed]
        if group:
            dots = axes.scatter(
                [c.values[across.name] for c in group],
                [c.values[metric.name] for c in group],
                c=[c.values.get(colour, np.nan) for c in group] if colour else [INK] * len(group),
                **(_colours(shown, colour) if colour else {}),
                s=70 if ringed else 34,
                marker="D" if ringed else "o",
                edgecolors=INK if ringed else "white",
                linewidths=1.3 if ringed else 0.6,
                zorder=4 if ringed else 3,
            )
    if colour:
        figure.colorbar(dots, ax=axes, label=f"alignment: {words(colour)}", pad=0.02)
    axes.set_xlabel(axis_label(across))
    axes.set_ylabel(axis_label(metric, "validation"))
    axes.xaxis.set_major_formatter(
        EngFormatter(sep=" ") if across.name in ("flops", "parameters") else ScalarFormatter(useOffset=False)
    )
    axes.margins(x=0.08, y=0.1)
    _number_the_front(figure, axes, [c for c in shown if c.network in on_front], metric, across)
    figure.legend(
        handles=[
            Line2D(
                [],
                [],
                marker="D",
                ls="",
                mfc=PALE,
                mec=INK,
                ms=7,
                label="on the front of all objectives (#: trial)",
            ),
            Line2D([], [], marker="o", ls="", mfc=GREY, mec="white", ms=6, label="other networks"),
            Line2D([], [], color=ORANGE, lw=1.4, label="front of these two axes"),
        ],
        loc="outside upper center",
        ncols=3,
        columnspacing=1.2,
    )
    return figure


def _pareto_axes(findings: Findings) -> tuple[Objective, Objective | None, str]:
    """The metric (upwards), what stands across, and what colours the dots ("" for nothing)."""
    metric = findings.metric
    values = findings.candidates[0].values if findings.candidates else {}
    others = [o for o in findings.objectives[1:] if o.name in values]
    costs = [o for o in others if o.name in findings.candidates[0].trials[0].cost]
    if not costs and "flops" in values:
        costs = [Objective(name="flops", direction="min")]
    across = (costs or others or [None])[0]
    coloured = [o.name for o in others if across is None or o.name != across.name]
    if not coloured and findings.candidates:
        reports = findings.candidates[0].trials[0].reports
        coloured = [name for name in (reports[-1].alignment if reports else {}) if name in values]
    return metric, across, coloured[0] if coloured else ""


def _colours(candidates: Sequence[Candidate], colour: str) -> dict[str, Any]:
    """How that value becomes a colour, the same for all dots."""
    finite = [c.values[colour] for c in candidates if np.isfinite(c.values.get(colour, np.nan))]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.0 if high > low else 0.05  # of a single value, a bar that can still be read
    return {"cmap": "viridis", "vmin": low - margin, "vmax": high + margin, "plotnonfinite": True}


def _front_line(axes: Axes, candidates: Sequence[Candidate], metric: Objective, across: Objective) -> None:
    front = sorted(pareto_front(candidates, [metric, across]), key=lambda c: c.values[across.name])
    x, y = [c.values[across.name] for c in front], [c.values[metric.name] for c in front]
    # What is on the front is as good for any larger cost, up to the next network.
    steps = "steps-post" if across.direction == "min" else "steps-pre"
    axes.plot(x, y, color=ORANGE, lw=1.4, drawstyle=steps, zorder=2)


def _number_the_front(
    figure: Figure, axes: Axes, front: Sequence[Candidate], metric: Objective, across: Objective
) -> None:
    """Trial numbers up right of the dots, off the line, moved apart where dots of like cost crowd."""
    if not front:
        return
    figure.draw_without_rendering()  # settles the layout, so that points on the page are known
    points = axes.transData.transform([(c.values[across.name], c.values[metric.name]) for c in front])
    points *= 72 / figure.dpi  # from dots to points, the unit of letters
    order = np.argsort(points[:, 1], kind="stable")
    placed: list[tuple[float, float]] = []
    for index in order:
        x, y = points[index]
        near = [other_y for other_x, other_y in placed if abs(other_x - x) < _LABEL_WIDTH]
        label_y = max([y, *(other + _LABEL_HEIGHT for other in near if other + _LABEL_HEIGHT > y)])
        placed.append((x, label_y))
        candidate = front[index]
        axes.annotate(
            f"#{candidate.number}",
            (candidate.values[across.name], candidate.values[metric.name]),
            xytext=(6, label_y - y + 8),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
        )
