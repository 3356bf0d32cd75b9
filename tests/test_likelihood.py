"""Likelihood in all poses: densities of rotations, toys whose truth is known."""

import pytest
import torch

import canonkit as ck
from canonkit.groups import haar_rotations
from canonkit.metrics.likelihood import Near, importance_nll, likelihood, turned_back
from canonkit.molecules import Molecules
from canonkit.results import evaluate_likelihoods, likelihood_table, measured_likelihoods, read_rows, save_rows


@pytest.mark.parametrize("width", [0.05, 0.5, 2.0])
def test_q_is_a_density_with_respect_to_haar(width):
    """E_Haar q = 1, and E_q [1 / q] = 1, the volume of SO(3)."""
    generator = torch.Generator().manual_seed(0)
    near, one = Near(width, 0.1), torch.eye(3, dtype=torch.float64).expand(40_000, 3, 3)
    _, log_q = near.draw(one, generator)
    back = (-log_q).exp()
    assert abs(float(back.mean()) - 1) < 4 * float(back.std()) / 200
    if width >= 0.5:
        forth = near.log_density(one, haar_rotations(40_000, generator=generator, dtype=torch.float64)).exp()
        assert abs(float(forth.mean()) - 1) < 4 * float(forth.std()) / 200


def toy(mean, sd):
    """-log of a Gaussian density around `mean` (n, 3) of centred molecules, on their 3 (n - 1) dimensions."""

    def nll(x):
        d, n = (x.positions - mean).square().sum((1, 2)), len(mean)
        return d / (2 * sd**2) + 3 * (n - 1) * torch.log(torch.tensor(sd * (2 * torch.pi) ** 0.5, dtype=d.dtype))

    return nll


def test_the_likelihood_of_a_gaussian_slice_in_all_poses_equals_the_truth():
    """Two atoms at +-r, mean at +-a: p(x) is a Gaussian at right angles times sinh(k) / k, k = 2 a r / sd^2."""
    a, sd, r = 0.8, 0.3, 0.9
    mean = torch.tensor([[a, 0, 0], [-a, 0, 0]], dtype=torch.float64)
    g = haar_rotations(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    positions = (torch.tensor([[r, 0, 0], [-r, 0, 0]], dtype=torch.float64)) @ g.mT
    x = Molecules(positions, torch.ones(50, 2, dtype=torch.long), torch.ones(50, 2, dtype=torch.bool))
    k = torch.tensor(2 * a * r / sd**2, dtype=torch.float64)
    flat = 3 * torch.log(torch.tensor(sd * (2 * torch.pi) ** 0.5, dtype=torch.float64))
    truth = (2 * a**2 + 2 * r**2) / (2 * sd**2) + flat - torch.log(torch.sinh(k) / k)
    generator = torch.Generator().manual_seed(0)
    found = importance_nll(toy(mean, sd), x, g, Near(0.4, 0.5), draws=4_000, generator=generator)
    # p / q is at most 2 k p's mean: the error of each is at most (2 k / 4,000)^1/2 = 0.09
    assert float((found - truth).abs().max()) < 4 * 0.09
    assert abs(float((found - truth).mean())) < 4 * 0.09 / 50**0.5


def test_a_pose_costs_what_it_leaves_open():
    """The slice's density is the largest, then comes that of all poses, then what the bound says of it."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    mean -= mean.mean(0)
    nll = toy(mean, 0.05)
    noise = 0.05 * torch.randn(200, 5, 3, generator=generator, dtype=torch.float64)
    positions = mean + noise - noise.mean(1, keepdim=True)
    x = Molecules(positions, torch.ones(200, 5, dtype=torch.long), torch.ones(200, 5, dtype=torch.bool))
    one = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    truth = importance_nll(nll, x, one, Near(0.05), draws=500, generator=generator).mean()
    R, log_q = Near(0.03, 0.0).draw(one, generator)
    bound = (nll(turned_back(x, R)) + log_q).mean()
    assert float(nll(x).mean()) < float(truth) < float(bound) < float(truth) + 3


def test_an_equivariant_network_needs_no_turns_and_others_pay_for_them(qm9):
    x = qm9.part("test")[:32]
    edm = ck.recipe("EDM").build(torch.bincount(qm9.part("train").sizes, minlength=30))
    found = likelihood(edm, x, equivariant=True, passes=2)
    assert found.width == float("inf")
    assert found.invariant == pytest.approx(found.slice, abs=4 * (found.slice_error + found.invariant_error))
    with pytest.raises(ValueError, match="has no likelihood"):
        likelihood(ck.recipe("CanonFlow").build(torch.ones(30)), x)


def test_models_are_compared_on_the_same_molecules_and_noise(qm9, tmp_path):
    """A model minus itself is nothing, in every molecule; what is printed is what `likelihood` gives."""
    runs = [ck.load("GDM"), ck.load("GDM"), ck.load("inertial+GDM")]
    gdm, again, inertial = evaluate_likelihoods(runs, qm9, 20, 1)
    assert again["slice_difference"] == again["slice_difference_error"] == again["invariant_difference"] == 0
    few, x = qm9.part("valid")[:250], qm9.part("test")[:20]
    alone = likelihood(runs[2].model, x, choose_on=few, passes=1)
    assert (inertial["slice"], inertial["invariant"]) == (alone.slice, alone.invariant)
    assert inertial["slice_difference"] == pytest.approx(inertial["slice"] - gdm["slice"])
    save_rows(tmp_path / "rows.json", [gdm, again, inertial])
    table = likelihood_table(read_rows(tmp_path / "rows.json"))
    assert table.rows[2][1] == f"{alone.slice:.1f} ± {alone.slice_error:.1f}"
    assert table.rows[0][3] == "–"


def test_what_was_measured_of_the_shipped_weights_is_in_the_kit():
    """The diffusions by graph networks of one table, on all test molecules, each of them beside GDM."""
    rows = measured_likelihoods()
    assert [r["recipe"] for r in rows] == ["GDM", "EDM", "inertial+GDM", "canon+GDM"]
    for r in rows:
        card = ck.load(r["recipe"]).card
        assert (r["seen"], r["test_molecules"]) == (ck.load(r["recipe"]).seen, 13_083)
        assert r["test_data"] == card["data"]["sha256"]
        for name in ("slice", "invariant"):
            if r is not rows[0]:
                assert r[f"{name}_difference"] == pytest.approx(r[name] - rows[0][name])
                assert r[f"{name}_difference_error"] < r[f"{name}_error"]
