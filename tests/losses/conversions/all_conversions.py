"""The conversions by library and example."""

from tests.losses.conversions import (
    equinox_models,
    flax_gemma,
    flax_generative,
    flax_graphs,
    flax_language,
    flax_reinforcement,
    flax_vision,
    haiku_models,
    plain_models,
)
from tests.losses.conversions.conversion import Conversion

MODULES = {
    "flax": (
        flax_vision,
        flax_language,
        flax_generative,
        flax_graphs,
        flax_gemma,
        flax_reinforcement,
    ),
    "equinox": (equinox_models,),
    "haiku": (haiku_models,),
    "optax": (plain_models,),
}

CONVERSIONS = {
    f"{library} {name.removeprefix('original_')}": Conversion(
        original, getattr(module, name.replace("original", "converted"))
    )
    for library, modules in MODULES.items()
    for module in modules
    for name, original in vars(module).items()
    if name.startswith("original_")
}
