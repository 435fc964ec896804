import pytest
import torch

from hetfed_lightning.fleets.tolerance import output_tolerance, step_tolerance

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "on_cpu", "on_gpu"),
    [(torch.float64, 1e-8, 1e-8), (torch.float32, 1e-3, 5e-3), (torch.bfloat16, 5e-2, 5e-2), (torch.half, 5e-2, 5e-2)],
)
def test_a_step_in_float32_may_be_of_tf32_on_a_gpu(dtype: torch.dtype, on_cpu: float, on_gpu: float) -> None:
    assert (step_tolerance(dtype, CPU), step_tolerance(dtype, GPU)) == (on_cpu, on_gpu)


def test_outputs_agree_in_half_of_their_digits_or_in_those_of_tf32() -> None:
    assert output_tolerance(torch.float32, CPU) == pytest.approx(2**-11.5)
    assert output_tolerance(torch.float64, GPU) == output_tolerance(torch.float64, CPU) == 2**-26
    # TF32 has 10 bits: a factor is off by no more than 2 ** -11 of itself.
    assert output_tolerance(torch.float32, GPU) > 10 * 2**-11
