"""Communication between devices in one step, counted in the compiled program.

Virtual CPU devices suffice: accelerators run the same collectives, before their compilers combine
them. Bytes are those of the collective's result on one device; a ring all-reduce of n bytes moves
about 2 n bytes per device, for any number of devices. Collectives inside a conditional (such
as a refresh of curvature factors) are counted separately, because most steps do not run them.

python benchmarks/communication.py [--devices N] [--only TEXT] [--whole]
"""
# ruff: noqa: E402  (JAX reads the number of devices when it is imported)

import argparse
import collections
import math
import os
import re
from collections.abc import Callable
from typing import Any

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--devices", type=int, default=8)
PARSER.add_argument("--only", default="", help="only networks whose name contains this text")
PARSER.add_argument("--whole", action="store_true", help="without sharded parameters")
ARGUMENTS = PARSER.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ARGUMENTS.devices}"

import jax
import jax.numpy as jnp
import optax
from nets import CASES, random_batch
from step_time import plain_step

import gtddp_jax as gt
from gtddp_lab.core import distributed

LOSS = optax.softmax_cross_entropy_with_integer_labels
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
BYTES |= {"s64": 8, "u64": 8}

OPTIMIZERS: dict[str, Callable[[gt.Network], Any]] = {
    "Adam": lambda net: None,
    "sequential, linear": lambda net: gt.adam(net, LOSS, 1e-3),
    "sequential, nonlinear": lambda net: gt.adam(net, LOSS, 1e-3, rollout="nonlinear"),
    "implicit, sketch": lambda net: gt.implicit(optax.adam(1e-3), net, LOSS),
    "implicit, full": lambda net: gt.implicit(optax.adam(1e-3), net, LOSS, weighting="full"),
}
"""Optimizers by name; None for the plain step."""


def compiled_text(
    net: gt.Network, make_optimizer: Callable[[gt.Network], Any], batch: Any, fsdp: bool
) -> str:
    """Return the text of the compiled step, for a batch split over all devices."""
    mesh = distributed.data_mesh()
    tx = make_optimizer(net)
    step = plain_step(net, optax.adam(1e-3)) if tx is None else gt.make_update(tx)
    params = net.init(jax.random.key(0), batch[0])
    start = (params, (optax.adam(1e-3) if tx is None else tx).init(params))
    whole, spread = distributed.replicated(mesh), distributed.split_samples(mesh)
    places = (
        distributed.fsdp_shardings(start, mesh) if fsdp else jax.tree.map(lambda _: whole, start)
    )
    out = (*places, whole) if tx is None else places
    placed = distributed.place_arrays(start, places)
    lowered = jax.jit(step, out_shardings=out).lower(
        *placed, distributed.place_arrays(batch, spread)
    )
    text = lowered.compile().as_text()
    assert text is not None, "XLA always has a text form"
    return text


def count_collectives(text: str) -> dict[bool, collections.Counter[str]]:
    """Count bytes and numbers of collectives: in every step (False), in some steps only (True)."""
    rare = rare_computations(text)
    counters: dict[bool, collections.Counter[str]] = {
        False: collections.Counter(),
        True: collections.Counter(),
    }
    name = ""
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", line)
        if header and line.endswith("{"):
            name = header[1]
        match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match:
            counter = counters[name in rare]
            counter[match[2]] += sum(
                BYTES[dtype] * math.prod(map(int, filter(None, shape.split(","))))
                for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            )
            counter[f"number of {match[2]}"] += 1
    return counters


def rare_computations(text: str) -> set[str]:
    """Return the names of the computations that a conditional runs, and of those they call."""
    calls: dict[str, set[str]] = collections.defaultdict(set)
    branches: set[str] = set()
    name = ""
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", line)
        if header and line.endswith("{"):
            name = header[1]
        called = re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", line)
        calls[name].update(called)
        if " conditional(" in line:
            inside = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
            for names in re.findall(r"branch_computations=\{([^}]*)\}", line):
                inside += [entry.strip(" %") for entry in names.split(",")]
            branches.update(inside)
    rare, waiting = set(), list(branches)
    while waiting:
        computation = waiting.pop()
        if computation not in rare:
            rare.add(computation)
            waiting += calls[computation]
    return rare


def format_kilobytes(counter: collections.Counter[str]) -> str:
    """Format the bytes by kind of collective, for a cell of the table."""
    parts = [
        f"{counter[kind] / 1e3:,.1f} ({counter[f'number of {kind}']} {kind})"
        for kind in COLLECTIVES
        if counter[kind]
    ]
    return ", ".join(parts) or "–"


def main() -> None:
    """Print a table row for each network and optimizer."""
    print(f"{ARGUMENTS.devices} devices, kB of results on each device")
    print(
        "| network (kB of parameters) | step | every step | conditional steps |\n|---|---|---|---|"
    )
    for case_name, make_case in CASES.items():
        if ARGUMENTS.only not in case_name:
            continue
        case = make_case()
        batch = random_batch(case)
        size = sum(
            leaf.nbytes for leaf in jax.tree.leaves(case.net.init(jax.random.key(0), batch[0]))
        )
        for name, make_optimizer in OPTIMIZERS.items():
            for fsdp in (False,) if ARGUMENTS.whole else (False, True):
                counters = count_collectives(compiled_text(case.net, make_optimizer, batch, fsdp))
                label = f"{name}, FSDP" if fsdp else name
                cells = (format_kilobytes(counters[False]), format_kilobytes(counters[True]))
                print(
                    f"| {case_name} ({size / 1e3:,.1f}) | {label} | {' | '.join(cells)} |",
                    flush=True,
                )


if __name__ == "__main__":
    jnp.zeros(()).block_until_ready()
    main()
