"""Which files are mutated, and which tests are run on their mutants."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = (
    *("implicit", "sequential", "joint", "curvature", "terminal"),
    *("core", "losses", "network", "tracing"),
)
"""The folders of `gtddp_jax` that hold the mathematics."""

SEQUENTIAL_STEP = "tests/sequential/test_exact_loss.py::test_network_equals_the_reference"
IMPLICIT_STEP = "tests/implicit/test_full.py::test_full_equals_its_formula[momentum]"
STEPS = (IMPLICIT_STEP, f"{SEQUENTIAL_STEP}[shortcut_at_1]")
"""One exact step of each game."""

KRONECKER = "tests/curvature/kronecker"
SHARED_INPUT = f"{KRONECKER}/test_shared_input.py"
CURVATURE = "tests/curvature/test_exact_curvatures.py::test_curvature_equals_its_formula"

QUICK: dict[str, tuple[str, ...]] = {
    "implicit/weighting/exact": ("tests/implicit/test_exact.py::test_momentum_in_closed_form",),
    "implicit/weighting/sketch": ("tests/implicit/test_sketch.py",),
    "implicit/guarded_step": ("tests/implicit/test_guarded_step.py",),
    "implicit": (
        IMPLICIT_STEP,
        "tests/implicit/test_full.py::test_gradient_and_update_are_the_weighted_ones",
    ),
    "sequential": (
        f"{SEQUENTIAL_STEP}[shortcut_at_1]",
        "tests/sequential/test_self_response.py::test_network_equals_the_loops[shortcut_at_1]",
        "tests/sequential/test_report.py::test_weights_and_feedback",
        "tests/sequential/test_alias.py",
    ),
    "joint/damping_rules": ("tests/joint/test_behaviour.py",),
    "joint/step_control": ("tests/joint/test_behaviour.py",),
    "joint/read_rows": ("tests/joint/test_read_rows.py",),
    "joint/outer_rows": ("tests/joint/test_read_rows.py",),
    "joint/leaf_products": ("tests/joint/test_read_rows.py",),
    "joint/losses_objective": ("tests/joint/test_losses.py",),
    "joint/acceleration": ("tests/joint/test_acceleration.py::test_chunks_change_nothing",),
    "joint/rows_step": ("tests/joint/test_rows_step.py",),
    "joint": ("tests/joint/test_exact.py",),
    "curvature/kronecker/cooperation": (
        f"{KRONECKER}/test_cooperation.py::test_theorem_3_block_by_block[pair]",
        f"{SHARED_INPUT}::test_shared_input_has_the_dense_joint_matrix[dense]",
        f"{SHARED_INPUT}::test_shared_input_is_recognized",
    ),
    "curvature/kronecker": (
        f"{KRONECKER}/test_eigenbases.py",
        f"{KRONECKER}/test_matrix_layouts.py",
        f"{KRONECKER}/test_running_factors.py",
        f"{KRONECKER}/test_second_moments.py",
        f"{KRONECKER}/test_exact.py::test_rates_and_damping_may_be_schedules",
        f"{KRONECKER}/test_low_rank.py::test_kfac_equals_the_dense_solve",
    ),
    "curvature/soap": (
        "tests/curvature/soap/test_exact.py::test_open_loop_is_the_published_optimizer[dense]",
        "tests/curvature/soap/test_soap.py",
    ),
    "curvature": (
        f"{CURVATURE}[sgd_nesterov]",
        f"{CURVATURE}[rmsprop_nesterov]",
        f"{CURVATURE}[adam_schedule]",
    ),
    "terminal": (
        "tests/implicit/test_full.py::test_hard_scalar_equations",
        "tests/terminal",
    ),
    "core/validation": ("tests/implicit/test_errors.py",),
    "core/report": (STEPS[1], "tests/sequential/test_report.py::test_weights_and_feedback"),
    "core/samples": ("tests/core/test_samples.py", *STEPS),
    "core/trees": ("tests/core/test_trees.py", *STEPS, "tests/network/test_sample_gradients.py"),
    "core": STEPS,
    "losses": ("tests/losses/test_constant_leaves.py", "tests/losses/test_games.py"),
    "network": (f"{SEQUENTIAL_STEP}[shortcut_at_1]", "tests/network/test_sample_gradients.py"),
    "tracing": (
        "tests/tracing",
        "tests/flax_models/test_verify.py::test_models_of_the_zoo_pass[shared]",
    ),
}
"""By the longest matching path, the tests that come first."""

SAFETY = "tests/sequential/test_safety.py"

MORE: dict[str, tuple[str, ...]] = {
    "implicit/weighting/exact": ("tests/implicit/test_exact.py",),
    "implicit": (
        "tests/implicit/test_errors.py",
        "tests/implicit/test_contract.py",
        "tests/implicit/test_full.py",
        "tests/implicit/test_guarded_step.py",
        "tests/implicit/test_sketch.py",
        "tests/implicit/test_devices.py",
    ),
    "sequential/placement_bandit": ("tests/sequential/test_placement_bandit.py",),
    "sequential/step_losses": ("tests/losses", "tests/sequential/test_contract.py"),
    "sequential": (
        "tests/sequential/test_stage_plans.py",
        "tests/sequential/test_report.py",
        SAFETY,
        "tests/sequential/test_composition.py",
        "tests/sequential/test_self_response.py",
        "tests/sequential/test_feedback_off.py",
        "tests/sequential/test_batch_norm.py",
    ),
    "joint": (
        "tests/joint",
        "tests/robustness/composition/test_joint.py",
        "tests/robustness/devices/test_joint.py",
    ),
    "curvature/kronecker/cooperation": (
        f"{KRONECKER}/test_cooperation.py",
        SHARED_INPUT,
        f"{KRONECKER}/test_cooperation_statistics.py",
        f"{KRONECKER}/test_cooperation_damping.py",
    ),
    "curvature/kronecker": (
        f"{KRONECKER}/test_low_rank.py",
        f"{KRONECKER}/test_feedback_off.py",
        f"{KRONECKER}/test_errors.py",
        f"{KRONECKER}/test_robust.py",
        f"{KRONECKER}/test_exact.py",
        f"{KRONECKER}/test_cooperation.py",
    ),
    "curvature": ("tests/curvature/test_exact_curvatures.py", f"{KRONECKER}/test_errors.py"),
    "terminal": (
        f"{SEQUENTIAL_STEP}[shortcut_at_1]",
        "tests/implicit/test_full.py",
        "tests/sequential/test_exact_terminals.py",
        "tests/robustness/test_faults.py::test_flat_places_of_the_loss",
        "tests/robustness/losses/test_reverse_rules.py",
    ),
    "core/call_context": ("tests/robustness/composition",),
    "core/validation": (
        "tests/docs/test_errors_page.py",
        "tests/implicit/test_errors.py",
        SAFETY,
    ),
    "core/samples": ("tests/implicit/test_devices.py", "tests/sequential/test_devices.py"),
    "core/report": (
        f"{SAFETY}::test_bad_numbers_are_skipped_and_training_goes_on",
        f"{SAFETY}::test_double_counting_is_reported",
        "tests/sequential/test_report.py",
        "tests/implicit/test_contract.py::test_a_loss_gradient_as_running_cost_is_noticed",
        "tests/core/test_duplicate_gradient.py",
    ),
    "core/trees": ("tests/robustness/devices/test_explicit.py",),
    "core": (
        "tests/network/test_sample_gradients.py",
        SAFETY,
        "tests/sequential/test_exact_rules.py",
        "tests/robustness/test_faults.py",
    ),
    "losses": ("tests/losses", "tests/implicit/test_contract.py"),
    "network": (
        "tests/network",
        "tests/sequential/test_batch_norm.py",
        "tests/docs/test_errors_page.py",
    ),
    "tracing/pure_model": ("tests/robustness/models", "tests/flax_models/test_refusals.py"),
    "tracing": (
        "tests/flax_models/test_players.py",
        "tests/flax_models/test_refusals.py",
        "tests/implicit/test_sketch.py",
        "tests/flax_models/test_verify.py",
        "tests/docs/test_errors_page.py",
    ),
}
"""By the longest matching path, the tests that follow where the first found nothing."""


def mutated_files() -> list[str]:
    """The files with mathematics, relative to the repository."""
    package = ROOT / "gtddp_jax"
    return [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((package / folder).rglob("*.py"))
        if path.name != "__init__.py"
    ]


def folder_of(path: str) -> str:
    """The folder of `FOLDERS` that a file belongs to."""
    return path.split("/")[1]


def quick_tests(path: str) -> tuple[str, ...]:
    """The tests that come first for a file."""
    return _longest_match(QUICK, path)


def more_tests(path: str) -> tuple[str, ...]:
    """The tests that follow where the first found nothing."""
    return _longest_match(MORE, path)


def _longest_match(table: dict[str, tuple[str, ...]], path: str) -> tuple[str, ...]:
    place = path.removeprefix("gtddp_jax/")
    return table[max((key for key in table if place.startswith(key)), key=len)]
