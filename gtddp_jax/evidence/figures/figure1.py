"""Fig. 1: step time and memory against the batch size."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.evidence.figures.batch_augmented import batch_augmented_step
from gtddp_jax.evidence.figures.training import LOSS
from gtddp_jax.evidence.pictures import canvas, save
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.evidence.timing import compiled, game_step, interleaved, ratio
from gtddp_jax.training import networks
from gtddp_jax.training.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, RATE = "figure1", 1e-2
BATCHES, LEAST = (1, 4, 16, 64), 0.02
PREVIOUS, BASE = "previous DDP", "SGD"


class Case(NamedTuple):
    """A network and the batches that it is measured with.

    Attributes:
        title: what it is.
        net: the network.
        shape: of one input.
        batches: batch sizes.
        largest: the largest one for the previous DDP, whose memory grows with its square.
    """

    title: str
    net: gt.Network
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    largest: int


def _mlp(width: int) -> gt.Network:
    body = [nn.Dense(width), nn.relu, nn.Dense(width)]
    return gt.Network([nn.Dense(width), nn.relu, gt.Residual(body), nn.relu, nn.Dense(10)])


def cases(quick: bool) -> dict[str, Case]:
    """The networks, by a short name."""
    if quick:
        tiny = gt.Network([nn.Dense(8), gt.Residual([nn.relu, nn.Dense(8)]), nn.Dense(10)])
        return {"tiny": Case("residual MLP, width 8", tiny, (8,), (1, 8), 8)}
    conv = networks.residual_conv(10, width=4)
    return {
        "conv": Case(
            "residual conv net (Fig. 5), 4 channels, 8×8", conv, (8, 8, 1),
            BATCHES, 4,
        ),
        "mlp": Case(
            "residual MLP, width 32, 64 inputs", _mlp(32), (64,), BATCHES, 16
        ),
    }  # fmt: skip


def _plain(net: gt.Network) -> Callable[..., Any]:
    tx = optax.sgd(RATE)

    def step(params: Any, state: Any, batch: Any) -> Any:
        gradient = jax.grad(lambda p: LOSS(net.apply(p, batch[0]), batch[1]).mean())(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def methods(net: gt.Network) -> dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]]:
    """What is compared, all with Q_uu = (1/rate) I: `(step(params, state, batch), init)` each."""
    ours = gt.sgd(net, LOSS, RATE)
    paper = gt.gtddp(
        net,
        LOSS,
        gt.curvature.identity(RATE),
        terminal=gt.terminal.gradient(),
        rollout="nonlinear",
    )
    previous = batch_augmented_step(net, LOSS, RATE)
    return {
        BASE: (_plain(net), optax.sgd(RATE).init),
        "GT-DDP": (game_step(ours), ours.init),
        "GT-DDP as in the paper": (game_step(paper), paper.init),
        PREVIOUS: (lambda params, state, batch: previous(params, batch), lambda params: ()),
    }


def measure(case: Case, rounds: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """One row a batch size: milliseconds (median) and MiB of each method, and ratios.

    Args:
        case: the network and its batches.
        rounds: how often every step runs; all methods run once in each round.
        say: is told of progress.

    Returns:
        `{"batch": B, "ms": {method: number or None}, "mib": the same, "time_ratio": GT-DDP over
        the previous DDP or None, "memory_ratio": the same}` for each B.
    """
    rng, found = np.random.default_rng(0), []
    params = case.net.init(jax.random.key(0), jnp.zeros((1, *case.shape)))
    table = methods(case.net)
    for size in case.batches:
        inputs = jnp.asarray(rng.normal(size=(size, *case.shape)), jnp.float32)
        batch = inputs, jnp.asarray(rng.integers(0, 10, size))
        steps, memory = {}, {}
        for name, (step, init) in table.items():
            if name != PREVIOUS or size <= case.largest:
                steps[name], memory[name] = compiled(step, params, init(params), batch)
        seconds = interleaved(steps, rounds, LEAST)
        row: dict[str, Any] = {"batch": size, "ms": {}, "mib": {}}
        for name in table:
            there = name in steps
            row["ms"][name] = 1e3 * float(np.median(seconds[name])) if there else None
            row["mib"][name] = memory[name] if there else None
        there = PREVIOUS in steps
        row["time_ratio"] = ratio(seconds["GT-DDP"], seconds[PREVIOUS]) if there else None
        row["memory_ratio"] = memory["GT-DDP"] / memory[PREVIOUS] if there else None
        found.append(row)
        times = ", ".join(f"{name} {_number(ms)}" for name, ms in row["ms"].items() if ms)
        say(f"figure 1: {case.title}, batch {size}: {times} ms")
    return found


def study(options: Options) -> Section:
    """Step time and planned memory of the base, GT-DDP and the previous batch-augmented DDP."""
    chosen = cases(options.quick)
    found = {
        name: measure(case, 3 if options.quick else 11, options.say)
        for name, case in chosen.items()
    }
    figure = canvas(2, len(chosen))
    rows = figure.subplots(len(chosen), 2, squeeze=False)
    for (name, case), axes in zip(chosen.items(), rows, strict=True):
        for panel, what, label in zip(
            axes, ("ms", "mib"), ("step, ms", "memory, MiB"), strict=True
        ):
            _draw(panel, case.title, found[name], what, label)
    rows[0][0].legend(fontsize="small")
    files = save(figure, options.out, NAME)
    title = "Figure 1: time and memory against the batch size"
    return Section(NAME, title, _text(chosen, found), {"rate": RATE, "cases": found}, files)


def _draw(axes: "Axes", title: str, rows: list[dict[str, Any]], what: str, label: str) -> None:
    for number, method in enumerate(rows[0][what]):
        there = [row for row in rows if row[what][method] is not None]
        axes.loglog(
            [row["batch"] for row in there],
            [row[what][method] for row in there],
            marker=".",
            color=COLOURS[number],
            label=method,
        )
    axes.set(xlabel="batch", ylabel=label)
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]["ms"])
    cells = [f"{name}, {unit}" for unit in ("ms", "MiB") for name in names]
    lines = ["| batch | " + " | ".join(cells) + " |", "|---" * (len(cells) + 1) + "|"]
    for row in rows:
        values = [_number(row[unit][name]) for unit in ("ms", "mib") for name in names]
        lines.append(f"| {row['batch']} | " + " | ".join(values) + " |")
    return lines


def _verdict(case: Case, rows: list[dict[str, Any]]) -> str:
    both = [row for row in rows if row["time_ratio"] is not None]
    last = both[-1]
    smaller = [f"{row['batch']}" for row in both if row["time_ratio"] > 1]
    slower = f"; at batch {', '.join(smaller)} it takes longer" if smaller else ""
    return (
        f"{case.title}: at batch {last['batch']}, the largest one for the previous DDP, a step of "
        f"GT-DDP takes {last['time_ratio']:.2g} of its time and {last['memory_ratio']:.2g} of its "
        f"memory{slower}."
    )


def _finding(rows: list[dict[str, Any]]) -> str:
    both = [row for row in rows if row["time_ratio"] is not None]
    less = all(row["memory_ratio"] < 1 for row in both)
    soon = all(row["time_ratio"] < 1 for row in both)
    memory = "always needs less memory" if less else "does not always need less memory"
    time = "always takes less time" if soon else "does not always take less time"
    return (
        f"GT-DDP {memory} and {time} than the previous DDP in these tables. V_x'x' grows with the "
        "square of the batch and of the states, everything in GT-DDP linearly, so that the ratios "
        "are what one makes of them by the choice of network and batch; ours are not the paper's. "
        "Of the paper's finding we can repeat the direction where the ratios are below 1, and no "
        "definite figure."
    )


def _text(chosen: Mapping[str, Case], found: Mapping[str, list[dict[str, Any]]]) -> str:
    lines = [
        "*The paper:* with the outer-product factorisation and block-diagonal V_xx, GT-DDP needs "
        "2/3 less memory and 1/5 less time than the previous DDP optimizer.",
        "",
        "*What is compared*, all with Q_uu = (1/rate) I, one step, compiled, float32, random "
        "inputs; times are medians of interleaved rounds, memory is what the compiler plans "
        "(arguments, results and temporaries):",
        "",
        "- `SGD`: a plain optax step.",
        "- `GT-DDP`: this library's default (`line`, linear rollout); `GT-DDP as in the paper`: "
        "rank-one terminal Hessian of the gradient, nonlinear rollout.",
        "- `previous DDP`: our own implementation of the batch-augmented method. The states of "
        "all samples stand side by side; V_x'x' is kept with all its blocks, one stage at a time, "
        "and Q_ux' of every stage for the feedback gains; the terminal Hessian is exact, the "
        "rollout nonlinear. Jacobians are never formed: they act on the rows of V_x'x' by "
        "backpropagation. The original authors' code is not public, and this is not it.",
        "",
        *(f"- {_verdict(case, found[name])}" for name, case in chosen.items()),
        "",
        _finding([row for rows in found.values() for row in rows]),
    ]
    for name, case in chosen.items():
        lines += ["", f"**{case.title}**", "", *_table(found[name])]
    lines += ["", f"![Step time and memory against the batch size]({NAME}.png)"]
    return "\n".join(lines)
