"""Rows from adjoint passes equal those of automatic differentiation, sample by sample."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.joint import leaf_products
from gtddp_jax.joint.losses_objective import NAME, LossesObjective
from gtddp_jax.joint.objective import Objective, TermObjective
from gtddp_jax.joint.outer_rows import OuterRows, row_matrix, squared_lengths
from gtddp_jax.joint.read_rows import read_outputs
from gtddp_jax.joint.rows import OutputRows
from tests.default_run import quick_cases

KEY = jax.random.key(0)


class Case(NamedTuple):
    """A batch of outputs.

    Attributes:
        objective: the outputs of one term.
        params: the parameters.
        products: paths of the parameters whose rows are outer products, with S.
    """

    objective: Objective
    params: Any
    products: dict[str, int]


def to_float64(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def of_term(residual: Callable[..., Any], params: Any, samples: Any, **products: int) -> Case:
    terms = {NAME: gt.Term(residual)}
    return Case(TermObjective(terms, {NAME: samples}, None), params, products)


def of_losses(model: nn.Module, inputs: Any, products: dict[str, int], **options: Any) -> Case:
    variables = to_float64(jax.jit(model.init)(KEY, inputs))
    params = variables.pop("params")

    def losses(params: Any) -> gt.Losses:
        outputs: Any = model.apply({"params": params, **variables}, inputs, **options)
        outputs = outputs[0] if options else outputs
        return gt.Losses(outputs, lambda outputs: optax.l2_loss(outputs).sum(-1))

    return Case(LossesObjective(losses, params, None), params, products)


class Layers(nn.Module):
    """Layer normalization, a residual connection and an unused parameter."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.tanh(nn.LayerNorm(param_dtype=jnp.float64)(nn.Dense(6)(x)))
        self.param("unused", nn.initializers.ones, (2,))
        return nn.Dense(3)(nn.Dense(6)(x) + x)


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(2)(nn.Conv(3, (3, 3), strides=2)(nn.relu(x)).mean((1, 2)))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(11, 8)(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.gelu(nn.Dense(16)(x)).mean(1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        cell = nn.LSTMCell(5, dtype=jnp.float64, param_dtype=jnp.float64)
        hidden: Any = nn.RNN(cell)(x)
        return nn.Dense(2)(hidden[:, -1])


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x)))


def tanh_network(params: Any, x: Any) -> Any:
    for kernel, bias in params[:-1]:
        x = jnp.tanh(kernel @ x + bias)
    return (params[-1][0] @ x + params[-1][1])[0]


def network_params(*sizes: int) -> Any:
    return [
        (jax.random.normal(jax.random.fold_in(KEY, i), (b, a), float), jnp.full(b, 0.1 * i))
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]


def laplacian(params: Any, x: Any) -> Any:
    return jnp.trace(jax.hessian(tanh_network, argnums=1)(params, x)) + x[0]


def nested_forward(params: Any, x: Any) -> Any:
    gradient = jax.jacfwd(tanh_network, argnums=1)
    return jnp.trace(jax.jacfwd(gradient, argnums=1)(params, x))


def tied(params: Any, x: Any) -> Any:
    """A kernel that is used as it is, transposed, and beside a cast."""
    hidden = jnp.tanh(params["w"] @ x + params["b"])
    return params["w"].T @ hidden - x + (params["w"].astype(float).T @ hidden**2)


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(KEY, sum(shape)), shape, float)


def as_a_whole(params: Any, x: Any) -> Any:
    """Axes of a kernel that are contracted together, and a standardized kernel."""
    kernel = params["w"] - params["w"].mean(0, keepdims=True)
    return jnp.einsum("abc,ac->b", params["v"], x) + kernel @ x.ravel()


def columns() -> Case:
    """Samples along the second axis."""
    params, x = {"w": normal(3, 5), "b": normal(3, 1)}, normal(5, 4)

    def losses(params: Any) -> gt.Losses:
        outputs = jnp.tanh(params["w"] @ x + params["b"])
        return gt.Losses(outputs.T, lambda outputs: optax.l2_loss(outputs).sum(-1))

    return Case(LossesObjective(losses, params, None), params, {"w": 1})


CASES: dict[str, Callable[[], Case]] = {
    "columns": columns,
    "layers": lambda: of_losses(
        Layers(), normal(5, 4), {"Dense_0.kernel": 1, "Dense_1.kernel": 1, "Dense_2.kernel": 1}
    ),
    "convolutions": lambda: of_losses(Convolutions(), normal(4, 6, 6, 2), {"Dense_0.kernel": 1}),
    "attention": lambda: of_losses(
        Attention(),
        jnp.arange(20).reshape(5, 4) % 11,
        {
            "Dense_0.kernel": 1,
            "Dense_1.kernel": 4,
            **{
                f"MultiHeadDotProductAttention_0.{name}.kernel": 4
                for name in ("query", "key", "value", "out")
            },
        },
    ),
    "recurrent": lambda: of_losses(
        Recurrent(),
        normal(5, 4, 3),
        {
            "Dense_0.kernel": 1,
            **{f"LSTMCell_0.{a}{b}.kernel": 4 for a in "ih" for b in "ifgo"},
        },
    ),
    "laplacian": lambda: of_term(laplacian, network_params(2, 6, 7, 1), normal(6, 2), **{"1.0": 6}),
    "nested forward": lambda: of_term(
        nested_forward, network_params(2, 6, 7, 1), normal(6, 2), **{"1.0": 9, "2.0": 4}
    ),
    "tied": lambda: of_term(tied, {"w": normal(4, 5), "b": normal(4)}, normal(6, 5), w=3),
    "as a whole": lambda: of_term(
        as_a_whole, {"w": normal(5, 6), "v": normal(2, 5, 3)}, normal(4, 2, 3), v=1
    ),
}


def outputs_of(case: Case) -> Callable[[Any], jax.Array]:
    return lambda params: case.objective.local_outputs(params)[NAME]


def path_name(path: Any) -> str:
    return ".".join(str(getattr(entry, "key", getattr(entry, "idx", None))) for entry in path)


@pytest.mark.parametrize("name", quick_cases(CASES, "columns", "layers", "tied", "as a whole"))
def test_rows_are_those_of_autodiff(name: str) -> None:
    case = CASES[name]()
    places = jnp.array([2, 0, 3])

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        read = read_outputs(outputs_of(case), params, None)
        assert read is not None
        rows = read.propagate(params).rows(places, jnp.float64)
        return case.objective.sample_rows(params, NAME, places), rows

    want, rows = both(case.params)
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(case.params)]
    found = {
        path: leaf.terms
        for path, leaf in zip(paths, rows, strict=True)
        if isinstance(leaf, OuterRows)
    }
    assert found == case.products
    for path, leaf, expected in zip(paths, rows, jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(row_matrix(leaf), expected, rtol=1e-12, atol=1e-12, err_msg=path)


def dense_rows(objective: Objective, params: Any) -> jax.Array:
    """J, term by term."""
    terms = [
        jax.tree.leaves(objective.sample_rows(params, name, jnp.arange(count)))
        for name, count in objective.counts.items()
    ]
    return jnp.concatenate([jnp.concatenate(rows, axis=1) for rows in terms])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("name", quick_cases(["layers", "tied"]))
@pytest.mark.parametrize("cheaper", quick_cases([True, False]))
def test_products_of_rows(
    name: str, chunk: int | None, cheaper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gram matrix, its diagonal and the normal matrix; by outer products or by rows."""
    monkeypatch.setattr(OuterRows, "is_cheaper", lambda *_: cheaper)
    monkeypatch.setattr(leaf_products, "GAIN", 0)
    case = CASES[name]()
    count = case.objective.counts[NAME]
    weights = {NAME: jnp.ones((count, 1, 1))}

    @jax.jit
    def products(params: Any) -> list[tuple[jax.Array, jax.Array]]:
        dense = dense_rows(case.objective, params)
        widths = {NAME: len(dense) // count}
        rows = OutputRows(case.objective, params, widths, chunk, jnp.float64)
        assert rows.objective.adjoint_rows(params, NAME) is not None
        metric = jax.tree.map(lambda x: 1 + x**2, params)
        leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(metric)]
        scaled = dense * jnp.concatenate(leaves)[None] ** -0.5
        return [
            (rows.gram_matrix(None), dense @ dense.T),
            (rows.gram_matrix(metric), scaled @ scaled.T),
            (rows.gram_diagonal(None), jnp.square(dense).sum(1)),
            (rows.normal_matrix(weights), dense.T @ dense),
        ]

    for got, want in products(case.params):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cheaper", [True, False])
def test_many_rows(cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a symmetric product; and terms that are read in different ways."""
    monkeypatch.setattr(OuterRows, "is_cheaper", lambda *_: cheaper)
    monkeypatch.setattr(leaf_products, "GAIN", 0)
    terms = {
        "boundary": gt.Term(tanh_network),
        "interior": gt.Term(laplacian),
        "turned": gt.Term(lambda params, x: (x @ params[1][0]).sum()),
    }
    batch = {"boundary": normal(600, 2), "interior": normal(20, 2), "turned": normal(3, 5)}
    objective = TermObjective(terms, batch, None)

    @jax.jit
    def products(params: Any) -> list[tuple[jax.Array, jax.Array]]:
        dense = dense_rows(objective, params)
        rows = OutputRows(objective, params, dict.fromkeys(terms, 1), None, jnp.float64)
        adjoint_rows = objective.adjoint_rows(params, "boundary")
        assert adjoint_rows is not None
        lengths = squared_lengths(adjoint_rows.rows(None, jnp.float64))
        return [
            (rows.gram_matrix(None), dense @ dense.T),
            (lengths, jnp.square(dense[:600]).sum(1)),
        ]

    for got, want in products(network_params(2, 6, 5, 1)):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-10)


def opaque(params: Any, x: Any) -> Any:
    kernel = params["w"]
    return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, kernel @ c[1]), (0, x))[1]


NOT_READ: dict[str, Callable[[], Case]] = {
    "batch normalization": lambda: of_losses(
        Normalized(), normal(5, 3), {}, mutable=["batch_stats"]
    ),
    "a single sample": lambda: of_term(tanh_network, network_params(2, 3, 1), normal(1, 2)),
    "a loop": lambda: of_term(opaque, {"w": normal(3, 3)}, normal(4, 3)),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_differentiated_sample_by_sample(name: str) -> None:
    case = NOT_READ[name]()
    assert read_outputs(outputs_of(case), case.params, None) is None
    assert case.objective.adjoint_rows(case.params, NAME) is None


@pytest.mark.slow
def test_terms_are_read_where_that_takes_much_less_work() -> None:
    """Wide layers of a plain network, but not narrow ones of an equation."""
    wide = of_term(tanh_network, network_params(2, 32, 32, 1), normal(5, 2))
    assert wide.objective.adjoint_rows(wide.params, NAME) is not None
    narrow = of_term(laplacian, network_params(2, 8, 8, 1), normal(5, 2))
    assert narrow.objective.adjoint_rows(narrow.params, NAME) is None
