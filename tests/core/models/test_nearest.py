"""Nearest neighbours are exact, whatever else is searched with them; a coreset covers what it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.models import nearest
from inspection_core.models.nearest import CHUNKS, Memory, greedy_coreset, principal, projection


def vectors(n: int, d: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.sampled_from([0.01, 1, 100]))
def test_the_nearest_are_those_of_brute_force(n, m, d, k, scale):
    queries, references = vectors(n, d, 1, scale), vectors(m, d, 2, scale)
    distances, numbers = Memory(references).search(queries, k)
    every = (queries.double()[:, None] - references.double()).square().sum(dim=2).sqrt()
    expected = every.sort(dim=1).values[:, : min(k, m)]
    assert distances.shape == numbers.shape == (n, min(k, m))
    assert torch.allclose(distances.double(), expected, rtol=1e-5, atol=1e-6 * scale)
    assert torch.allclose(every.gather(1, numbers), expected, rtol=1e-5, atol=1e-6 * scale)
    assert (distances.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("k", [1, 3])
def test_company_changes_nothing_not_even_the_last_bit(k):
    """1,500 queries at once, in other order or one by one, across the border between two blocks."""
    queries, memory = vectors(1500, 32, 3), Memory(vectors(300, 32, 4))
    distances, numbers = memory.search(queries, k)
    for i in (0, 700, 1023, 1024, 1499):
        alone = memory.search(queries[i : i + 1], k)
        assert torch.equal(alone[0][0], distances[i])
        assert torch.equal(alone[1][0], numbers[i])
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(5))
    mixed = memory.search(queries[order], k)
    assert torch.equal(mixed[0], distances[order])
    assert torch.equal(mixed[1], numbers[order])


def test_the_size_of_a_block_is_no_part_of_the_answer(monkeypatch):
    queries, memory = vectors(100, 16, 3), Memory(vectors(50, 16, 4))
    distances, numbers = memory.search(queries, 2)
    monkeypatch.setattr(nearest, "BLOCK", 7)
    again, same = memory.search(queries, 2)
    assert torch.allclose(again, distances, rtol=1e-6)
    assert torch.equal(same, numbers)


def test_a_reference_finds_itself_at_distance_0():
    """The expanded form of the distance would say 0.001 or so here, for want of digits."""
    references = vectors(200, 64, scale=100)
    distances, numbers = Memory(references).search(references)
    assert distances.max() == 0
    assert torch.equal(numbers[:, 0], torch.arange(200))


def test_a_memory_moves_and_stays():
    memory = Memory(vectors(5, 3))
    assert len(memory) == 5
    assert memory.to(torch.device("cpu")) is memory
    assert memory.to(torch.device("meta")).vectors.device.type == "meta"


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 70), st.integers(0, 1000))
def test_a_coreset_has_no_duplicates_and_knows_its_radius(n, d, count, seed):
    pool = vectors(n, d, seed)
    numbers, radii = greedy_coreset(pool, count)
    assert len(numbers) == len(radii) == min(count, n)
    assert len(set(numbers.tolist())) == len(numbers)
    for step in (1, len(numbers)):
        radius = torch.cdist(pool.double(), pool[numbers[:step]].double()).amin(dim=1).max()
        assert float(radii[step - 1]) == pytest.approx(float(radius), rel=1e-3, abs=2e-3)
    assert (radii.diff() <= 2e-3).all()


def test_the_radius_is_at_most_twice_the_best():
    """Four tight clusters and four choices: one from each."""
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    pool = torch.cat([c + 0.1 * vectors(25, 2, i) for i, c in enumerate(centres)])
    numbers, radii = greedy_coreset(pool, 4)
    assert sorted((numbers // 25).tolist()) == [0, 1, 2, 3]
    assert float(radii[-1]) < 1


@pytest.mark.parametrize("count", [1, 5, 6, 9])
def test_equal_vectors_are_chosen_once_each(count):
    pool = torch.ones((6, 4))
    pool[3:] = 2
    numbers, _ = greedy_coreset(pool, count)
    assert len(set(numbers.tolist())) == min(count, 6)


def test_the_first_choice_is_nearest_to_the_mean():
    numbers, _ = greedy_coreset(torch.tensor([[0.0], [4.0], [9.0]]), 1)
    assert numbers.tolist() == [1]


def test_a_projection_keeps_distances_on_average():
    pool = vectors(200, 400)
    short = pool @ projection(400, 100, seed=0)
    ratio = torch.pdist(short) / torch.pdist(pool)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.std()) < 0.1


def test_a_projection_is_its_seeds():
    assert torch.equal(projection(10, 4, 1), projection(10, 4, 1))
    assert not torch.equal(projection(10, 4, 1), projection(10, 4, 2))


def test_principal_directions_are_orthonormal_and_widest_first():
    vectors = torch.randn((500, 4), generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 3.0, 0.1])
    basis = principal(vectors, 2)
    assert torch.allclose(basis.T @ basis, torch.eye(2), atol=1e-5)
    assert basis.abs().argmax(dim=0).tolist() == [1, 2]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_principal_directions_are_those_of_the_covariance_and_leave_the_vectors_alone(kind):
    vectors = torch.randn((500, 6), generator=torch.Generator().manual_seed(0)).to(kind) + 3
    before = vectors.clone()
    basis = principal(vectors, 3)
    wanted = torch.linalg.eigh(torch.cov(before.T.double())).eigenvectors[:, -3:].flip(1)
    assert torch.allclose(basis.double().abs(), wanted.abs(), atol=1e-6)
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("count", [300, 1600])
def test_a_search_in_a_basis_gives_whole_distances_and_bounds_the_least_one(count):
    generator = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn((count, 24), generator=generator), torch.randn((70, 24), generator=generator)
    memory = Memory(vectors, principal(vectors, 12))
    distance, number = memory.search(queries)
    least, _ = Memory(vectors).search(queries)
    assert torch.allclose(distance[:, 0], (queries - vectors[number[:, 0]]).norm(dim=1), atol=1e-5)
    short = torch.cdist(memory._shorten(queries), memory._shorten(vectors)).amin(dim=1, keepdim=True)
    assert (short <= least + 1e-4).all()
    assert (least <= distance + 1e-4).all()


@pytest.mark.parametrize("count", [2 * CHUNKS - 1, 100, 256 * CHUNKS, 256 * CHUNKS + 9])
def test_of_each_chunk_one_is_a_candidate_and_the_nearest_of_them_in_all_dimensions_is_given(count):
    generator = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn((count, 24), generator=generator), torch.randn((1200, 24), generator=generator)
    memory = Memory(vectors, principal(torch.randn((90, 24), generator=generator), 6))
    assert -(-count // memory.chunk) == CHUNKS
    short = torch.cdist(memory._shorten(queries), memory._shorten(vectors))
    parts = enumerate(short.split(memory.chunk, dim=1))
    candidates = torch.stack([part.argmin(dim=1) + k * memory.chunk for k, part in parts], dim=1)
    whole = torch.cdist(queries, vectors)
    distance, number = memory.search(queries)
    nearest = whole.gather(1, candidates).argmin(dim=1, keepdim=True)
    assert (number == candidates.gather(1, nearest)).float().mean() > 0.999  # but for those that are as near
    assert torch.allclose(distance, whole.gather(1, candidates).amin(dim=1, keepdim=True), atol=1e-5)
    winner = whole.gather(1, short.argmin(dim=1, keepdim=True))
    assert distance.mean() < 0.97 * winner.mean()  # that is what candidates are for


def test_a_search_of_no_queries_finds_nothing():
    distance, number = Memory(torch.eye(4), torch.eye(4)[:, :2]).search(torch.empty((0, 4)))
    assert distance.shape == number.shape == (0, 1)
