r"""What the graph networks share: an MLP on all pairs of atoms, followed by a reduction over them.

The plain form concatenates, for each pair, both atoms' features and the edge's, and keeps every intermediate result for
the backward pass. Here the same numbers cost less:

- the first layer is linear: W [h_i; h_j; e_ij] + b = (A h_i + b) + B h_j + C e_ij costs per atom, not per pair;
- only u, the output of the second layer, is kept for the backward pass. All else on pairs is elementwise or a reduction
  and is computed anew from u and from what is per atom, which is cheaper than to write and read it: a pass over memory
  costs as much as the arithmetic;
- the pairs are worked off a few molecules at a time, so that intermediate results stay in the processor's cache.

B batch, N atoms, W width, E edge features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

CHUNK = 2**20  # entries of a pair tensor worked on at a time


def linear_as(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A linear layer computed in `dtype`: parameters are kept in full precision and rounded on the way."""
    return linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class MLP2(nn.Sequential):
    """Linear(silu(Linear x)) on atoms, computed in `dtype`, returned in x's dtype."""

    def __init__(self, inputs: int, width: int):
        super().__init__(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        first, act, second = self
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)  # noqa: PT018
        return linear_as(act(linear_as(x, first.weight, first.bias, dtype)), second.weight, second.bias, dtype).to(
            x.dtype
        )


class PairMLP(nn.Module):
    """m_ij = silu(Linear(silu(Linear [h_i; h_j; e_ij]))), then a reduction: see the module's text."""

    def __init__(self, width: int, edge_features: int = 0):
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * width + edge_features, width)
        self.second = nn.Linear(width, width)

    def forward(
        self,
        h: Tensor,
        e: Tensor | None,
        reduce: Callable[..., tuple[Tensor, ...]],
        batched: tuple[Tensor, ...] = (),
        shared: tuple[Tensor, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, ...]:
        """reduce(m, *batched, *shared) of the messages m (B, N, N, W) in `dtype`.

        Args:
            h: (B, N, W).
            e: edge features (B, N, N, E), or None.
            reduce: what to make of the messages of some molecules; differentiable in all its arguments. It may be
                called several times, for a few molecules each, and must not mix them.
            batched: tensors with first dimension B, of which `reduce` gets the same molecules as of m.
            shared: parameters of `reduce`.
            dtype: bfloat16 halves the traffic; sums over many products are kept in float32 by the matrix units.
        """
        w_i, w_j, w_e = self.first.weight.tensor_split([self.width, 2 * self.width], dim=1)
        p, q = linear_as(h, w_i, self.first.bias, dtype), linear_as(h, w_j, None, dtype)
        e = h.new_empty(*p.shape[:2], p.shape[1], 0) if e is None else e
        if h.is_cuda:  # memory is plentiful there, and few large kernels are faster than many small ones
            m = silu(linear_as(_hidden(p, q, e, w_e), self.second.weight, self.second.bias, dtype))
            return reduce(m, *batched, *shared)
        batched = (p, q, e, *batched)
        shared = (w_e, self.second.weight, self.second.bias, *shared)
        return _Pairs.apply(reduce, torch.is_grad_enabled(), len(batched), *batched, *shared)


def _hidden(p: Tensor, q: Tensor, e: Tensor, w_e: Tensor) -> Tensor:
    """silu(p_i + q_j + C e_ij)."""
    y = p[:, :, None] + q[:, None]
    if e.shape[-1]:
        if e.dtype != y.dtype:
            e, w_e = _split(e, w_e, y.dtype)
        add = Tensor.addmm if torch.is_grad_enabled() else Tensor.addmm_
        y = add(y.flatten(0, 2), e.flatten(0, 2), w_e.mT).view_as(y)
    return silu(y, inplace=not torch.is_grad_enabled())


def _split(e: Tensor, w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors in `dtype` whose product is e w^T with twice the digits, which squared distances need.

    e = high + low and w = high + low, each rounded to `dtype`; the product of the two lows is dropped.
    """
    (e_high, e_low), (w_high, w_low) = ((high := x.to(dtype), (x - high.to(x.dtype)).to(dtype)) for x in (e, w))
    return torch.cat([e_high, e_low, e_high], dim=-1), torch.cat([w_high, w_high, w_low], dim=-1)


class _Pairs(torch.autograd.Function):
    """reduce(silu(u)), u = Linear hidden: forward keeps u, backward rebuilds what is cheap on either side of it."""

    @staticmethod
    def forward(ctx, reduce, keep, count, *tensors):
        batched, (w_e, weight, bias, *shared) = tensors[:count], tensors[count:]
        weight, bias, *shared = (x.to(batched[0].dtype) for x in (weight, bias, *shared))
        kept, results = [], []
        for rows in _chunks(batched[0]):
            p, q, e, *rest = (x[rows] for x in batched)
            u = linear(_hidden(p, q, e, w_e), weight, bias)
            if keep:
                kept.append(u)
            results.append(reduce(silu(u, inplace=not keep), *rest, *shared))
        ctx.reduce, ctx.count, ctx.total = reduce, count, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    @staticmethod
    def backward(ctx, *grads):
        tensors, kept = ctx.saved_tensors[: ctx.total], ctx.saved_tensors[ctx.total :]
        batched, shared = tensors[: ctx.count], [x.detach().requires_grad_() for x in tensors[ctx.count :]]
        w_e, weight, _, *more = shared
        weight = weight.detach().to(batched[0].dtype)
        by_molecule = [[] for _ in batched]
        by_parameter = [torch.zeros_like(x) for x in shared]
        for rows, u in zip(_chunks(batched[0]), kept, strict=True):
            with torch.enable_grad():
                p, q, e, *rest = (x[rows].detach().requires_grad_() for x in batched)
                hidden = _hidden(p, q, e, w_e)
                u = u.detach().requires_grad_()
                results = ctx.reduce(silu(u), *rest, *more)
            inner = torch.autograd.grad(results, [u, *rest, *more], [g[rows] for g in grads])
            du, d_rest, d_more = inner[0].flatten(0, 2), inner[1 : 1 + len(rest)], inner[1 + len(rest) :]
            outer = torch.autograd.grad(hidden, [p, q, e, w_e], (du @ weight).view_as(hidden), allow_unused=True)
            # Rows of weights' gradients are summed over all chunks in the parameters' own precision.
            d_shared = (outer[3], du.mT @ hidden.detach().flatten(0, 2), du.sum(0), *d_more)
            for total, part in zip(by_parameter, d_shared, strict=True):
                if part is not None:
                    total += part
            for parts, part in zip(by_molecule, (*outer[:3], *d_rest), strict=True):
                parts.append(part)
        joined = (torch.cat(parts) if parts[0] is not None else None for parts in by_molecule)
        return None, None, None, *joined, *by_parameter


def _chunks(p: Tensor) -> list[slice]:
    B, N, W = p.shape
    size = max(1, CHUNK // (N * N * W))
    return [slice(k, k + size) for k in range(0, B, size)]


def neighbours(h: Tensor, mask: Tensor | None) -> Tensor:
    """1 where j is a real atom other than i, (B, N, N), in h's dtype."""
    other = 1 - torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    return other.expand(len(h), -1, -1) if mask is None else other * mask[:, None]


def attend(m: Tensor, near: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """sum_{j != i} a_ij m_ij, a_ij = sigmoid(w . m_ij + b): (B, N, N, W) -> (B, N, W)."""
    a = torch.sigmoid(m @ weight[0].to(m.dtype) + bias.to(m.dtype)) * near.to(m.dtype)
    return ((a.unsqueeze(-2) @ m).squeeze(-2),)
