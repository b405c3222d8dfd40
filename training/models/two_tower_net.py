"""The two towers as a torch module."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from serving.encoders.tower import EPSILON
from training.models.configs import TwoTowerConfig
from training.models.two_tower_steps import Batch

Matrix = sp.csr_matrix[np.float32]


class Towers(nn.Module):
    """Product and customer tower.

    The tables of products have one entry more than d: a product's bias, divided by √d so that it learns at the pace of
    the scores.

    Parameters
    ----------
    identity
        (products, d + 1): what a product's identity adds to its description.
    known
        (products,): products with an identity; the others have a description only.
    description
        (products × tokens) shares of the tokens of each product.
    table
        (tokens, d + 1): vectors of the tokens.
    history
        (products, d): what a product in a history says of the customer.
    features
        (tokens, d): vectors of the tokens of customers.
    """

    def __init__(
        self,
        *,
        identity: NDArray[np.float32],
        known: NDArray[np.bool_],
        description: Matrix,
        table: NDArray[np.float32],
        history: NDArray[np.float32],
        features: NDArray[np.float32],
        config: TwoTowerConfig,
    ) -> None:
        super().__init__()
        width = config.factors
        self.identity = _table(identity)
        self.history = _table(history)
        self.words = _table(table)
        self.features = _table(features)
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.mix.weight)
        self.hidden = nn.Linear(width, config.hidden)
        self.output = nn.Linear(config.hidden, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("known", torch.from_numpy(known))
        self.scale = 1.0 / config.temperature
        self._description = description

    def tables(self) -> list[Tensor]:
        """Return the parameters whose rows are updated one by one: of products and words."""
        return [self.identity.weight, self.history.weight, self.words.weight]

    def layers(self) -> list[nn.Parameter]:
        """Return the other parameters."""
        return [*self.mix.parameters(), *self.hidden.parameters(), *self.output.parameters()]

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Return the context for the forward pass: half precision on a GPU, nothing on a CPU."""
        if self.hidden.weight.is_cuda:
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def products(self) -> Tensor:
        """Return all product vectors (products, d + 1), of length one but for the bias; zero for the unknown."""
        size = self.identity.num_embeddings
        return torch.cat(
            [self._product(np.arange(start, min(start + 8192, size))) for start in range(0, size, 8192)]
        )

    def customers(self, shown: Matrix, features: Matrix) -> Tensor:
        """Return vectors (customers, d + 1) of customers with a history, at most ``scale`` long but for the bias."""
        pooled = functional.normalize(bag(self.history.weight, shown, sparse=True), dim=1, eps=EPSILON)
        known = pooled + bag(self.features.weight, features, sparse=True)
        corrected = self.mix(known) + self.output(functional.relu(self.hidden(known)))
        corrected = corrected.float()
        short = corrected / torch.linalg.vector_norm(corrected, dim=1, keepdim=True).clamp(min=1.0)
        return torch.cat([self.scale * short, short.new_ones((len(short), 1))], dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of what was hidden."""
        device = self.hidden.weight.device
        queries = self.customers(batch.shown, batch.features)
        products = self._product(batch.candidates, unnamed=batch.unnamed)
        scores = torch.addmm(torch.from_numpy(batch.correction).to(device), queries, products.T).float()
        masked = tuple(torch.from_numpy(places).to(device) for places in batch.masked)
        scores = scores.index_put(masked, scores.new_tensor(-1e9))
        row, place, share = (torch.from_numpy(part).to(device) for part in batch.target)
        unlikely = torch.logsumexp(scores, dim=1)[row] - scores[row, place]
        return (unlikely * share).sum() / share.sum()

    def copied(self) -> dict[str, Tensor]:
        """Return a copy of the state."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def exported_layers(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of ``serving.encoders.tower.LAYERS``."""
        found = {
            "features": self.features.weight,
            "mix.weight": self.mix.weight,
            "hidden.weight": self.hidden.weight,
            "hidden.bias": self.hidden.bias,
            "output.weight": self.output.weight,
            "output.bias": self.output.bias,
        }
        arrays = {name: value.detach().float().cpu().numpy().copy() for name, value in found.items()}
        return {**arrays, "scale": np.array(self.scale, dtype=np.float32)}

    def _product(self, products: NDArray[np.int64], unnamed: NDArray[np.bool_] | None = None) -> Tensor:
        device = self.hidden.weight.device
        index = torch.from_numpy(products.astype(np.int64)).to(device)
        named = self.known[index]  # type: ignore[index]
        description = self._description[products]
        if unnamed is not None:
            # without a description there is nothing to learn from leaving the identity out
            able = torch.from_numpy(unnamed & (np.diff(description.indptr) > 0)).to(device)
            named = named & ~able
        summed = self.identity(index) * named[:, None] + bag(self.words.weight, description, sparse=True)
        width = summed.shape[1] - 1
        unit = functional.normalize(summed[:, :width], dim=1, eps=EPSILON)
        return torch.cat([unit, summed[:, width:] * width**0.5], dim=1)


def bag(table: Tensor, rows: Matrix, *, sparse: bool = False) -> Tensor:
    """Return the weighted sums (rows, d) of the vectors of ``table`` that each sparse row names.

    With ``sparse``, the gradient has only the rows of the table that were named.
    """
    if not rows.nnz:
        return table.new_zeros((rows.shape[0], table.shape[1]))
    return functional.embedding_bag(
        torch.from_numpy(rows.indices.astype(np.int64)).to(table.device),
        table,
        torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(table.device),
        mode="sum",
        sparse=sparse,
        per_sample_weights=torch.from_numpy(rows.data).to(table.device),
    )


def _table(vectors: NDArray[np.float32]) -> nn.Embedding:
    held = torch.from_numpy(vectors.astype(np.float32))
    table: nn.Embedding = nn.Embedding.from_pretrained(held, freeze=False, sparse=True)  # type: ignore[no-untyped-call]
    return table
