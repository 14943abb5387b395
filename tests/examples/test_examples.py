"""The examples run unchanged, each in its own process, and show what they promise."""

import re
from pathlib import Path

import pytest

from tests.conftest import RunPython
from tests.lab.data import originals

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def output(run_python: RunPython, name: str) -> str:
    result = run_python("-W", "error", str(EXAMPLES / name), timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def accuracies(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"test accuracy ([\d.]+)%", text)]


@pytest.mark.slow
def test_optax_loop(run_python: RunPython) -> None:
    assert accuracies(output(run_python, "optax_loop.py"))[-1] > 93


@pytest.mark.slow
def test_any_model(run_python: RunPython) -> None:
    text = output(run_python, "any_model.py")
    assert re.findall(r"(base|implicit) +last epoch", text) == ["base", "implicit"] * 2
    assert min(accuracies(text)) > 93


@pytest.mark.slow
def test_data_parallel(run_python: RunPython) -> None:
    text = output(run_python, "data_parallel.py")
    apart = [float(number) for number in re.findall(r"apart by (\S+)", text)]
    assert len(apart) == 8
    assert max(apart) < 1e-4


FLAX = {
    "flax_linen.py": ("--epochs", "1"),
    "flax_nnx.py": ("--epochs", "1"),
    "char_gpt.py": ("--steps", "5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAX)
def test_flax_models(run_python: RunPython, name: str) -> None:
    result = run_python("-W", "error", str(EXAMPLES / name), *FLAX[name], timeout=300)
    assert result.returncode == 0, result.stderr
    figures = re.findall(r"^(Adam|GT-DDP) .* loss ([\d.]+)", result.stdout, re.MULTILINE)
    assert {who for who, _ in figures} == {"Adam", "GT-DDP"}
    assert all(float(value) < 5 for _, value in figures)


@pytest.mark.slow
def test_cooperative_blocks(run_python: RunPython) -> None:
    options = ("--epochs", "2", "--seeds", "1")
    script = str(EXAMPLES / "cooperative_blocks.py")
    result = run_python("-W", "error", script, *options, timeout=400)
    assert result.returncode == 0, result.stderr
    assert len(accuracies(result.stdout)) == 4
    assert min(accuracies(result.stdout)) > 70
    assert "One seed shows no order" in result.stdout


@pytest.mark.slow
def test_cifar_resnet18(run_python: RunPython, tmp_path: Path) -> None:
    """A narrow network runs on a few noise images in the original format."""
    originals.write_cifar(tmp_path, "cifar10", "python", packed=True)
    options = ("--own", "--epochs", "2", "--batch-size", "5", "--width", "4")
    script = str(EXAMPLES / "cifar_resnet18.py")
    result = run_python("-W", "error", script, str(tmp_path), *options, timeout=580)
    assert result.returncode == 0, result.stderr
    assert len(accuracies(result.stdout)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pinn_poisson.py", "image_regression.py"])
def test_joint_game_beside_adam(name: str, run_python: RunPython) -> None:
    """At equal time, after a few steps, the joint game is ahead."""
    script = str(EXAMPLES / name)
    result = run_python("-W", "error", script, "--steps", "25", timeout=300)
    assert result.returncode == 0, result.stderr
    pattern = r"^(joint game|Adam) .*?(?:relative error (\S+)|([\d.]+) dB)$"
    found = re.findall(pattern, result.stdout, re.MULTILINE)
    (game, *game_figures), (adam, *adam_figures) = found
    assert (game, adam) == ("joint game", "Adam")
    if name == "pinn_poisson.py":
        assert float(game_figures[0]) < 0.1 * float(adam_figures[0])
    else:
        assert float(game_figures[1]) > 20


@pytest.mark.slow
def test_pinn_burgers(run_python: RunPython) -> None:
    script = str(EXAMPLES / "pinn_burgers.py")
    result = run_python("-W", "error", script, "--steps", "30", timeout=300)
    assert result.returncode == 0, result.stderr
    errors = [float(value) for value in re.findall(r"relative error (\S+)", result.stdout)]
    assert len(errors) == 2 and errors[-1] < 0.6


@pytest.mark.slow
def test_wave_function(run_python: RunPython) -> None:
    script = str(EXAMPLES / "wave_function.py")
    result = run_python("-W", "error", script, "--steps", "30", timeout=300)
    assert result.returncode == 0, result.stderr
    errors = [float(value) for value in re.findall(r"error (\S+)", result.stdout)]
    assert errors[-1] < 1e-6
