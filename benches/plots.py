"""Draws docs/plots/*.svg from what the benches left in target/criterion. `benches/report` runs it."""

import pathlib

import matplotlib

matplotlib.use("svg")
# The same data gives the same file.
matplotlib.rcParams.update({"svg.hashsalt": "rmcp-session-policy", "svg.fonttype": "none", "font.family": "sans-serif"})

from matplotlib import pyplot, ticker  # noqa: E402, the backend is chosen first

NANOS = [(1, "ns"), (1e3, "µs"), (1e6, "ms")]


def time(nanos, _):
    size, unit = max((pair for pair in NANOS if nanos >= pair[0]), default=NANOS[0])
    return f"{nanos / size:g} {unit}"


def draw(path, title, lines, x, log_y=True):
    """One plot: {label: {x: nanoseconds}}."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, points in lines.items():
        columns = sorted(points, key=int)
        axes.plot([int(c) for c in columns], [points[c] for c in columns], marker="o", label=label)
    ticks = sorted({int(column) for points in lines.values() for column in points})
    axes.set_xscale("log", base=2 if x == "threads" else 10)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(time)
    axes.set(title=title, xlabel=x)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(groups, folder: pathlib.Path):
    """Draws every plot from {group: {row: {column: nanoseconds}}}."""
    names = ["Fifo", "Lru", "Lfu", "Lru in tiers", "Prospects"]
    victims = {name: groups[f"a victim by {name}"]["50 % busy"] for name in names}
    draw(folder / "victim.svg", "A victim, half of the sessions busy", victims, "sessions", log_y=False)
    full = groups["create at capacity over LocalSessionManager"]
    draw(folder / "at-capacity.svg", "A creation on a full server", full, "sessions")
    known = groups["has_session"]
    draw(folder / "has-session.svg", "Is this session there?", known, "sessions")
    threads = groups["a request seen by the transport, by threads"] | groups["what shares more, by threads"]
    draw(folder / "threads.svg", "Threads beside each other, two cores", threads, "threads")
