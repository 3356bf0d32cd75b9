r"""Variance-preserving diffusion in discrete time, as in EDM (Hoogeboom et al. 2022; Kingma et al. 2021).

q(z_t | x) = N(alpha_t x, sigma_t^2),   alpha_t^2 + sigma_t^2 = 1,   gamma_t = -log(alpha_t^2 / sigma_t^2),   t = 0..T
training:  0.5 |eps - eps_hat(z_t, t)|^2 / size,   t ~ U{0..T};  the likelihood below at t = 0
bound:     -log p(x) <= KL(q(z_T | x) | N(0, 1))
                        + sum_{t=1..T} E 0.5 (SNR(s) / SNR(t) - 1) |eps - eps_hat|^2,   s = t - 1
                        - E log p(x | z_0)
sampling:  z_s = z_t / alpha_ts - sigma_ts^2 / (alpha_ts sigma_t) eps_hat + (sigma_ts sigma_s / sigma_t) noise
           for any s < t, with alpha_ts = alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2;
           z_s = alpha_s x_hat + sqrt(sigma_s^2 - c^2) eps_hat + c noise,  c = eta sigma_ts sigma_s / sigma_t,
           x_hat = (z_t - sigma_t eps_hat) / alpha_t, is the same at eta = 1 and DDIM, without noise, at eta = 0

With EDM's schedule and T = 1000 the bound lies 0.38 nats per dimension above the entropy of a broad Gaussian, even
with the best possible denoiser; the gap closes as T grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from canonkit.processes.base import Loss, Network, Process
from canonkit.processes.spaces import Euclidean
from canonkit.randomness import Draws, Source, choose


@dataclass(frozen=True, eq=False)
class Draw:
    """The randomness of one training step: times t (B,) in 0..T and noise eps shaped like z."""

    t: Tensor
    eps: Tensor

    def __getitem__(self, rows) -> Draw:
        return Draw(self.t[rows], self.eps[rows])


def polynomial_schedule(steps: int = 1000, precision: float = 1e-5, power: float = 2.0) -> Tensor:
    """gamma_t for t = 0..T of EDM's "polynomial" schedule, (T + 1,) float64.

    alpha_t^2 = (1 - (t/T)^power)^2, its step ratios clipped to [1e-3, 1], then (1 - 2s) alpha^2 + s with s = precision.
    """
    t = torch.linspace(0, steps, steps + 1, dtype=torch.float64)
    alpha2 = (1 - (t / steps) ** power) ** 2
    ratios = torch.cat([alpha2[:1], alpha2[1:] / alpha2[:-1]]).clamp(1e-3, 1)
    alpha2 = (1 - 2 * precision) * ratios.cumprod(0) + precision
    return -torch.log(alpha2 / (1 - alpha2))


def cosine_schedule(steps: int = 1000, offset: float = 0.008) -> Tensor:
    """gamma_t for t = 0..T of the cosine schedule (Nichol and Dhariwal 2021), (T + 1,) float64.

    alpha_t^2 = f(t + 1) / f(0) with f(t) = cos^2((t / (T + 1) + offset) / (1 + offset) pi / 2), its step ratios at
    least 1e-3: t = 0 is the first of their T + 1 noisy times, sigma_0 = 0.0064 for T = 1000.
    """
    t = torch.linspace(0, 1, steps + 2, dtype=torch.float64)
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    alpha2 = (f[1:] / f[:-1]).clamp(min=1e-3).cumprod(0)
    return -torch.log(alpha2 / (1 - alpha2))


class Diffusion(Process):
    """Loss, bound and sampler for any network, which predicts eps, and any `space`.

    Args:
        space: what the data is (`Euclidean`, `MoleculeSpace`).
        gamma: the schedule, (T + 1,) increasing; EDM's by default.
    """

    has_nll = True

    def __init__(self, space: Euclidean, gamma: Tensor | None = None):
        gamma = polynomial_schedule() if gamma is None else gamma.double()
        super().__init__(space, default=len(gamma), least=2, most=len(gamma))
        # Kept in float64 whatever dtype the model is moved to: alpha near 0 and sigma near 0 need it.
        self.gamma = gamma
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}
        self.T = len(gamma) - 1

    def _alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        key = like.device, like.dtype
        if key not in self._tables:  # where the data is, so that looking t up does not wait for the device
            self._tables[key] = torch.sigmoid(-self.gamma).sqrt().to(*key), torch.sigmoid(self.gamma).sqrt().to(*key)
        shape, (alpha, sigma) = (-1, *[1] * (like.ndim - 1)), self._tables[key]
        return alpha[t.to(like.device)].view(shape), sigma[t.to(like.device)].view(shape)

    def _predict(self, network: Network, z: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
        return self.space.project(network(z, (t / self.T).to(z.device), mask).to(z.dtype), mask)

    # -- training -----------------------------------------------------------------------------------------------------

    def draw(self, x, generator: Source | None = None) -> Draw:
        """Times uniform on {0..T} and noise, for a batch."""
        z, mask = self.space.encode(x)
        if isinstance(generator, Draws):
            t = choose(torch.ones(self.T + 1), len(z), generator)
        else:
            home = generator.device if generator is not None else z.device
            t = torch.randint(0, self.T + 1, (len(z),), generator=generator, device=home)
        return Draw(t, self.space.noise(z, mask, generator))

    def noised(self, x, generator: Source | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a network is given in training: z_t, t / T in [0, 1] and the mask, at one random time per sample."""
        draw = self.draw(x, generator)
        z, mask = self.space.encode(x)
        return self._noise(z, draw)[0], (draw.t / self.T).to(z.device), mask

    def _noise(self, z: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """z_t, sigma_t and eps where z is."""
        alpha, sigma = self._alpha_sigma(draw.t, z)
        eps = draw.eps.to(z.device)
        return alpha * z + sigma * eps, sigma, eps

    def loss(self, network: Network, x, draw: Draw | None = None) -> Loss:
        """The training loss of a batch; `x` is taken as it is (canonicalize it before)."""
        draw = draw or self.draw(x)
        z, mask, z_t, sigma, square = self._denoise(network, x, draw)
        zero = (draw.t == 0).to(z.device)
        terms = {}
        for name, part in self.space.parts.items():
            error = 0.5 * square[..., part].flatten(1).sum(1) / self.space.size
            # At t = 0 only coordinates are denoised; the rest has its likelihood.
            terms[name] = (error * ~zero if name in self.space.discrete else error).mean()
        terms["reconstruction"] = -(self.space.discrete_log_likelihood(z, z_t, sigma, mask) * zero).mean()
        return Loss.of(terms)

    def squared_error(self, network: Network, x, draw: Draw) -> Tensor:
        """|eps - eps_hat|^2 / size of every sample, (B,)."""
        return self._denoise(network, x, draw)[-1].flatten(1).sum(1) / self.space.size

    def _denoise(self, network: Network, x, draw: Draw) -> tuple[Tensor, ...]:
        """z, mask, z_t, sigma_t and the entries of (eps - eps_hat)^2."""
        z, mask = self.space.encode(x)
        z_t, sigma, eps = self._noise(z, draw)
        return z, mask, z_t, sigma, (eps - self._predict(network, z_t, draw.t, mask)).square()

    # -- likelihood ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def nll(self, network: Network, x, generator: Source | None = None) -> Tensor:
        """An unbiased estimate of the bound on -log p(x), (B,) nats, from one t and one eps per sample.

        For molecules: of positions with the mean removed, and types, given the number of atoms.
        """
        space = self.space
        z, mask = space.encode(x)
        # The weights w_t of the sum over t peak at small t, so half of the times are drawn in proportion to them.
        w = 0.5 * torch.expm1(self.gamma.diff())
        q = 0.5 / self.T + 0.5 * w / w.sum()
        t = choose(q.float(), len(z), generator).cpu()
        alpha, sigma = self._alpha_sigma(t + 1, z)
        eps = space.noise(z, mask, generator)
        square = (eps - self._predict(network, alpha * z + sigma * eps, t + 1, mask)).square()
        diffusion = (w / q)[t].to(z) * square.flatten(1).sum(1)

        alpha_T, sigma_T = self._alpha_sigma(torch.full((len(z),), self.T), z)
        sigma2 = sigma_T.flatten().square()
        prior = 0.5 * (
            (alpha_T * z).square().flatten(1).sum(1) + space.all_freedom(z, mask) * (sigma2 - 1 - sigma2.log())
        )

        t_0 = torch.zeros(len(z), dtype=torch.long)
        alpha_0, sigma_0 = self._alpha_sigma(t_0, z)
        eps = space.noise(z, mask, generator)
        z_0 = alpha_0 * z + sigma_0 * eps
        eps_hat = self._predict(network, z_0, t_0, mask)
        density = 0.5 * space.continuous(eps - eps_hat).square().flatten(1).sum(1)
        # The Gaussian p(x | z_0) has standard deviation sigma_0 / alpha_0.
        constant = space.freedom(z, mask) * float(0.5 * self.gamma[0] + 0.5 * math.log(2 * math.pi))
        return prior + diffusion + density + constant - space.discrete_log_likelihood(z, z_0, sigma_0, mask)

    # -- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        sizes: Tensor,
        steps: int | None = None,
        generator: Source | None = None,
        eta: float = 1.0,
        on_step: Callable[[int, Tensor], None] | None = None,
        path: list | None = None,
    ):
        """Samples of the given sizes (B,), by ancestral sampling or with less noise.

        Args:
            network: the denoiser.
            sizes: atoms per molecule; for `Euclidean` data only its length counts. Its device is the device used.
            steps: network evaluations, at times evenly spaced over 0..T, both included; all T + 1 by default.
            generator: for repeatable samples; with `Draws` none depends on the others of its batch.
            eta: share of ancestral sampling's noise; 0 is DDIM, for few steps.
            on_step: called as on_step(t, z_t) after every evaluation but the last: for progress bars and pictures.
            path: the states z_t are appended to it as data, and at last the samples.
        """
        evaluations = self.evaluations(steps)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta {eta} is not between 0 and 1")
        z, mask = self.space.blank(sizes)
        z = self.space.noise(z, mask, generator)
        times = torch.linspace(self.T, 0, evaluations).round().long().tolist()
        for t, s in zip(times, times[1:], strict=False):
            if path is not None:
                path.append(self.space.decode(z, mask))
            gamma_t, gamma_s = self.gamma[t], self.gamma[s]
            log_alpha2_ts = logsigmoid(-gamma_t) - logsigmoid(-gamma_s)
            sigma2_ts = float(-torch.expm1(softplus(gamma_s) - softplus(gamma_t)))
            alpha_ts = float(torch.exp(0.5 * log_alpha2_ts))
            sigma_t, sigma_s = (float(torch.sigmoid(g).sqrt()) for g in (gamma_t, gamma_s))
            eps_hat = self._predict(network, z, torch.full((len(z),), t), mask)
            if self.space.bounds is not None:  # the x that eps_hat speaks of lies within them
                alpha_t = float(torch.sigmoid(-gamma_t).sqrt())
                eps_hat = (z - alpha_t * ((z - sigma_t * eps_hat) / alpha_t).clamp(*self.space.bounds)) / sigma_t
            c = sigma2_ts**0.5 * sigma_s / sigma_t
            noise = self.space.noise(z, mask, generator)
            from_eps = sigma2_ts / (alpha_ts * sigma_t)
            if eta < 1:
                from_eps += (sigma_s**2 - c**2) ** 0.5 - (sigma_s**2 - (eta * c) ** 2) ** 0.5
            z = z / alpha_ts - from_eps * eps_hat + eta * c * noise
            z = self.space.project(z, mask)
            if on_step is not None:
                on_step(s, z)
        if path is not None:
            path.append(self.space.decode(z, mask))
        zero = torch.zeros(len(z), dtype=torch.long)
        alpha_0, sigma_0 = self._alpha_sigma(zero, z)
        eps_hat = self._predict(network, z, zero, mask)
        x = (z - sigma_0 * eps_hat + eta * sigma_0 * self.space.noise(z, mask, generator)) / alpha_0
        # Types are read off z_0, whose likelihood is discrete; coordinates off x.
        rest = z[..., self.space.continuous(z).shape[-1] :]
        samples = self.space.decode(torch.cat([self.space.continuous(x), rest], dim=-1), mask)
        if path is not None:
            path.append(samples)
        return samples
