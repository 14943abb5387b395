"""What devices say to each other in a step, counted in the compiled program.

Virtual devices of the CPU serve: the collectives are those of the program that accelerators would
run too, before their compilers combine them. Bytes are those of a collective's result on one
device; a ring all-reduce of n bytes moves about 2 n per device, whatever their number. What is
inside a conditional (a calibration, a refresh) is counted apart: most steps do not run it.

python benchmarks/communication.py [--devices N] [--only TEXT] [--whole]
"""
# ruff: noqa: E402  (the devices must be set before jax starts)

import argparse
import collections
import math
import os
import re
from collections.abc import Callable
from typing import Any

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--devices", type=int, default=8)
PARSER.add_argument("--only", default="", help="networks whose name contains this")
PARSER.add_argument("--whole", action="store_true", help="without sharded parameters")
ARGUMENTS = PARSER.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ARGUMENTS.devices}"

import jax
import jax.numpy as jnp
import optax
from nets import CASES, batch_of
from step_time import plain_step

import gtddp_jax as gt
from gtddp_jax.training import distributed

LOSS = optax.softmax_cross_entropy_with_integer_labels
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
BYTES |= {"s64": 8, "u64": 8}

WAYS: dict[str, Callable[[gt.Network], Any]] = {
    "Adam": lambda net: None,
    "sequential, linear": lambda net: gt.adam(net, LOSS, 1e-3),
    "sequential, nonlinear": lambda net: gt.adam(net, LOSS, 1e-3, rollout="nonlinear"),
    "implicit, tail": lambda net: gt.implicit(optax.adam(1e-3), net.apply, LOSS),
    "implicit, product": lambda net: gt.implicit(
        optax.adam(1e-3), net.apply, LOSS, weights="product"
    ),
    "implicit, product, every=4": lambda net: gt.implicit(
        optax.adam(1e-3), net.apply, LOSS, weights="product", every=4
    ),
}
"""Optimizers by name; None for the plain step."""


def program(net: gt.Network, make: Callable[[gt.Network], Any], batch: Any, fsdp: bool) -> str:
    """The compiled step's text, for a batch that is spread over all devices."""
    mesh = distributed.data_mesh()
    tx = make(net)
    step = plain_step(net, optax.adam(1e-3)) if tx is None else gt.make_update(tx)
    params = net.init(jax.random.key(0), batch[0])
    start = (params, (optax.adam(1e-3) if tx is None else tx).init(params))
    whole, spread = distributed.everywhere(mesh), distributed.spread(mesh)
    places = distributed.fsdp(start, mesh) if fsdp else jax.tree.map(lambda _: whole, start)
    out = (*places, whole) if tx is None else places
    placed = distributed.put(start, places)
    return (
        jax.jit(step, out_shardings=out)
        .lower(*placed, distributed.put(batch, spread))
        .compile()
        .as_text()
    )


def collectives(text: str) -> dict[bool, collections.Counter[str]]:
    """Bytes and numbers of collectives: of every step (False) and of some steps only (True)."""
    rare = rare_computations(text)
    found: dict[bool, collections.Counter[str]] = {
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
            counter = found[name in rare]
            counter[match[2]] += sum(
                BYTES[dtype] * math.prod(map(int, filter(None, shape.split(","))))
                for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            )
            counter[f"number of {match[2]}"] += 1
    return found


def rare_computations(text: str) -> set[str]:
    """Names of the computations that a conditional runs, and of those that they call."""
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


def kilobytes(counter: collections.Counter[str]) -> str:
    """The bytes by kind, in a cell of the table."""
    parts = [
        f"{counter[kind] / 1e3:,.1f} ({counter[f'number of {kind}']} {kind})"
        for kind in COLLECTIVES
        if counter[kind]
    ]
    return ", ".join(parts) or "–"


def main() -> None:
    """Prints a table row for each network and optimizer."""
    print(f"{ARGUMENTS.devices} devices, kB of results on each device")
    print(
        "| network (kB of parameters) | step | every step | conditional steps |\n|---|---|---|---|"
    )
    for label, case_of in CASES.items():
        if ARGUMENTS.only not in label:
            continue
        case = case_of()
        batch = batch_of(case)
        size = sum(v.nbytes for v in jax.tree.leaves(case.net.init(jax.random.key(0), batch[0])))
        for way, make in WAYS.items():
            for fsdp in (False,) if ARGUMENTS.whole else (False, True):
                found = collectives(program(case.net, make, batch, fsdp))
                kind = f"{way}, FSDP" if fsdp else way
                cells = (kilobytes(found[False]), kilobytes(found[True]))
                print(f"| {label} ({size / 1e3:,.1f}) | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    jnp.zeros(()).block_until_ready()
    main()
