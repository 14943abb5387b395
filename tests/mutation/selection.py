"""Which files are mutated, and which tests are run on their mutants."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = ("implicit", "sequential", "curvature", "terminal", "core", "network", "tracing")
"""The folders of `gtddp_jax` that hold the mathematics."""

SEQUENTIAL_STEP = "tests/sequential/test_exact_loss.py::test_network_equals_the_reference"
IMPLICIT_STEP = "tests/implicit/test_product.py::test_product_equals_its_formula[momentum]"
STEPS = (IMPLICIT_STEP, f"{SEQUENTIAL_STEP}[shortcut_at_1]")
"""One exact step of each game."""

TAIL = "tests/implicit/test_tail.py"
KRONECKER = "tests/curvature/kronecker"
SHARED_INPUT = f"{KRONECKER}/test_shared_input.py"
CURVATURE = "tests/curvature/test_exact_curvatures.py::test_curvature_equals_its_formula"

QUICK: dict[str, tuple[str, ...]] = {
    "implicit/weighting/tail": (
        f"{TAIL}::test_weights_and_calibrations_equal_their_formulas[momentum]",
        f"{TAIL}::test_ratios_are_bounded_by_most",
        f"{TAIL}::test_auto_takes_the_shortest_good_tail",
    ),
    "implicit/weighting/newton": (
        "tests/implicit/test_newton.py::test_momentum_in_closed_form",
        "tests/implicit/test_newton.py::test_logistic_proximal_step_is_stationary",
    ),
    "implicit/predictors": ("tests/implicit/test_tail_sets.py",),
    "implicit": (
        IMPLICIT_STEP,
        "tests/implicit/test_product.py::test_gradient_and_update_are_the_weighted_ones",
        "tests/implicit/test_response.py",
    ),
    "sequential": (
        f"{SEQUENTIAL_STEP}[shortcut_at_1]",
        "tests/sequential/test_self_response.py::test_network_equals_the_loops[shortcut_at_1]",
        "tests/sequential/test_report.py",
        "tests/sequential/test_alias.py",
    ),
    "curvature/kronecker/cooperation": (
        f"{KRONECKER}/test_cooperation.py::test_theorem_3_block_by_block[pair]",
        f"{KRONECKER}/test_cooperation.py::test_joint_inverts_the_gauss_newton_block[pair]",
        f"{SHARED_INPUT}::test_shared_input_has_the_dense_joint_matrix[dense]",
        f"{SHARED_INPUT}::test_shared_input_is_recognized",
        f"{KRONECKER}/test_cooperation_statistics.py::test_joint_factors_are_running_means",
    ),
    "curvature/kronecker": (
        f"{KRONECKER}/test_exact.py::test_rates_and_damping_may_be_schedules",
        f"{KRONECKER}/test_low_rank.py",
        f"{KRONECKER}/test_feedback_off.py::test_dense_layer_by_the_baselines_arithmetic",
        f"{KRONECKER}/test_robust.py",
    ),
    "curvature": (
        f"{CURVATURE}[sgd_nesterov]",
        f"{CURVATURE}[rmsprop_nesterov]",
        f"{CURVATURE}[adam_schedule]",
        f"{CURVATURE}[from_optax_adam]",
        "tests/curvature/test_curvature_contract.py::test_policy_keeps_the_contract",
    ),
    "terminal": (
        "tests/implicit/test_product.py::test_hard_scalar_equations",
        "tests/terminal",
        *STEPS,
        "tests/sequential/test_exact_terminals.py::test_loss_equals_the_dense_definition[softmax]",
    ),
    "core": (
        *STEPS,
        "tests/sequential/test_report.py",
        "tests/sequential/test_exact_rules.py::test_chunks_of_a_convolution[conv]",
        "tests/sequential/test_safety.py",
    ),
    "network": (
        f"{SEQUENTIAL_STEP}[shortcut_at_1]",
        "tests/network",
    ),
    "tracing": (
        "tests/tracing",
        "tests/flax_models/test_verify.py::test_models_of_the_zoo_pass[perceptron]",
        "tests/flax_models/test_players.py",
    ),
}
"""By the longest matching path, the tests that come first."""

MORE: dict[str, tuple[str, ...]] = {
    "implicit": ("tests/implicit",),
    "sequential": ("tests/sequential", "tests/reference"),
    "curvature": ("tests/curvature", "tests/sequential/test_feedback_off.py"),
    "terminal": ("tests/sequential", "tests/implicit", "tests/robustness"),
    "core": ("tests/sequential", "tests/implicit", "tests/network", "tests/robustness"),
    "network": ("tests/sequential", "tests/implicit/test_models.py", "tests/reference"),
    "tracing": ("tests/flax_models", "tests/implicit"),
}
"""By folder, the tests that follow where the first found nothing."""


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
    place = path.removeprefix("gtddp_jax/")
    return QUICK[max((key for key in QUICK if place.startswith(key)), key=len)]


def more_tests(path: str) -> tuple[str, ...]:
    """The tests that follow where the first found nothing."""
    return MORE[folder_of(path)]
