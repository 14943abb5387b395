"""The Gram matrix K of a batch and systems with it: as a matrix, or as products of derivatives."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.types import Scalar, Tree
from gtddp_jax.joint.linear_solve import (
    Solver,
    conjugate_gradients,
    largest_eigenvalue,
    symmetric_solver,
)
from gtddp_jax.joint.loss_blocks import multiply_blocks
from gtddp_jax.joint.objective import Blocks, TermOutputs
from gtddp_jax.joint.rows import OutputRows, flatten_outputs, unflatten_outputs


@dataclasses.dataclass(frozen=True)
class SampleSystem(abc.ABC):
    """K, and systems with it.

    Attributes:
        like: the outputs, for their shapes.
    """

    like: TermOutputs

    @abc.abstractmethod
    def multiply(self, vector: Float[Array, " m"]) -> Float[Array, " m"]:
        """`K vector`."""

    @abc.abstractmethod
    def largest_eigenvalue(self, root: Blocks) -> Scalar:
        """Estimate of the largest eigenvalue of `root K root`."""

    @abc.abstractmethod
    def solver(self, root: Blocks, damping: Scalar) -> Solver:
        """Solves `(damping I + root K root) x = right`, the matrix prepared once."""

    def curvature(self, root: Blocks, vector: Float[Array, " m"]) -> Float[Array, " m"]:
        """`root K root vector`."""
        image = self.multiply(multiply_blocks(root, vector, self.like))
        return multiply_blocks(root, image, self.like)


@dataclasses.dataclass(frozen=True)
class DenseSystem(SampleSystem):
    """K as a matrix."""

    gram: Float[Array, "m m"]

    @override
    def multiply(self, vector: Float[Array, " m"]) -> Float[Array, " m"]:
        return self.gram @ vector

    @override
    def largest_eigenvalue(self, root: Blocks) -> Scalar:
        lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(self.gram), 0))
        start = multiply_blocks(root, lengths, self.like)
        return largest_eigenvalue(lambda vector: self.curvature(root, vector), start)

    @override
    def solver(self, root: Blocks, damping: Scalar) -> Solver:
        def damped_curvature() -> jax.Array:
            half = multiply_blocks(root, self.gram, self.like)
            matrix = multiply_blocks(root, half.T, self.like)
            return matrix + damping * jnp.eye(matrix.shape[0], dtype=matrix.dtype)

        return symmetric_solver(
            damped_curvature, lambda vector: self.curvature(root, vector) + damping * vector
        )


@dataclasses.dataclass(frozen=True)
class MatrixFreeSystem(SampleSystem):
    """K as a product of derivatives, never laid out; systems by conjugate gradients.

    Attributes:
        rows: the derivatives.
        metric: M, or None.
        iterations: most conjugate-gradient steps.
        tolerance: relative residual at which they stop.
    """

    rows: OutputRows
    metric: Tree | None
    iterations: int
    tolerance: float

    @override
    def multiply(self, vector: Float[Array, " m"]) -> Float[Array, " m"]:
        direction = self.rows.pull_back(unflatten_outputs(vector, self.like))
        if self.metric is not None:
            direction = jax.tree.map(jnp.divide, direction, self.metric)
        return flatten_outputs(self.rows.push_forward(direction), vector.dtype)

    @override
    def largest_eigenvalue(self, root: Blocks) -> Scalar:
        size = sum(value.size for value in self.like.values())
        start = jnp.ones(size, self.rows.dtype)
        return largest_eigenvalue(lambda vector: self.curvature(root, vector), start, steps=6)

    @override
    def solver(self, root: Blocks, damping: Scalar) -> Solver:
        def multiply(vector: jax.Array) -> jax.Array:
            return damping * vector + self.curvature(root, vector)

        # The diagonal of root K root, exact where blocks are diagonal.
        squares = multiply_blocks(
            {name: jnp.square(value) for name, value in root.items()},
            self.rows.gram_diagonal(self.metric),
            self.like,
        )
        diagonal = squares.astype(self.rows.dtype) + damping
        return lambda right: conjugate_gradients(
            multiply, right, diagonal, self.tolerance, self.iterations
        )
