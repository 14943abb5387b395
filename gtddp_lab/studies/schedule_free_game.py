"""The implicit game around schedule-free AdamW, scored at its average."""

import dataclasses

import jax
import optax
from optax import contrib

import gtddp_jax as gt
from gtddp_lab.studies.competitors import keep_point, schedule_free_adamw
from gtddp_lab.training.methods import GAMES, OPTIMIZERS, TrainingMethod
from gtddp_lab.training.settings import LearningRate, TrainSettings
from gtddp_lab.training.state import BatchStats, RunState
from gtddp_lab.training.steps import Batch, ObserveWeights, SampleLoss, StepResult, TrainStep


def schedule_free_game_method(base: str) -> TrainingMethod:
    """`gtddp_jax.implicit` around `optax.contrib.schedule_free_adamw`.

    As in `competitors.schedule_free_method`, the parameters of the run are the average x, and the
    point y at which the layers play is part of the optimizer's state.
    """
    game = GAMES["implicit"]
    entry = dataclasses.replace(OPTIMIZERS[base], build_base=schedule_free_adamw)

    def build(
        net: gt.Network,
        loss: SampleLoss,
        settings: TrainSettings,
        rate: LearningRate,
        batch_stats: BatchStats,
    ) -> optax.GradientTransformation:
        return keep_point(game.build(entry, net, loss, settings, rate, batch_stats))

    def make_step(
        net: gt.Network,
        loss: SampleLoss,
        optimizer: optax.GradientTransformation,
        weight_decay: float = 0.0,
    ) -> TrainStep:
        take_step = game.make_step(net, loss, optimizer, weight_decay)

        def step(
            state: RunState,
            batch: Batch,
            key: jax.Array,
            observe: ObserveWeights | None = None,
        ) -> StepResult:
            opt_state, point = state.opt_state
            at_point = state._replace(params=point, opt_state=opt_state)
            taken = take_step(at_point, batch, key, observe)
            average = contrib.schedule_free_eval_params(taken.opt_state.base, taken.params)
            return taken._replace(params=average, opt_state=(taken.opt_state, taken.params))

        return step

    return TrainingMethod(
        f"implicit-schedule-free-{base}",
        "Implicit-schedule-free AdamW",
        build,
        make_step,
        has_sample_weights=True,
    )
