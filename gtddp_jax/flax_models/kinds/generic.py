"""Any operation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.flax_models.kinds.base import Operands, Parts, UseSums


class Generic(UseSums):
    """Any operation: derivatives of the operation itself."""

    kind = "generic"

    def parts(self) -> Parts:
        """See `UseSums`; without a form for one sample, all samples with all weights but one 0."""
        site, single = self.site, self.site.single()
        if single is None:
            return jnp.eye(site.size), self.weighted
        data = {i: a.front(site.inputs[i]) for i, a in enumerate(site.axes) if a is not None}
        adjoints = [a.front(g) for g, a in zip(site.adjoints, site.out_axes, strict=True)]

        def gradient(part: Any) -> Operands:
            own, g = part
            inputs = list(site.inputs)
            for i, x in own.items():
                axis = site.axes[i]
                assert axis is not None
                inputs[i] = axis.back(x[None])
            cotangents = tuple(a.back(v[None]) for v, a in zip(g, site.out_axes, strict=True))
            alone = dataclasses.replace(site, equation=single, inputs=tuple(inputs))
            return jax.vjp(alone.run, site.values)[1](cotangents)[0]

        return (data, adjoints), gradient
