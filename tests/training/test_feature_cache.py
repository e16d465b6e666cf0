"""Embedded views: what they equal, which are drawn, and when a cache is not used."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpmix.data import TensorSource
from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone
from dpmix.pool.pool import PublicPool
from dpmix.training.feature_cache import FeatureCache, cpu_parallel_map, example_rng
from dpmix.views import ViewBuilder, ViewSpec

CPU = torch.device("cpu")
SPECS = [
    ViewSpec("none"),
    ViewSpec("self-aug", k_base=3),
    ViewSpec("mix-self", k_base=2, k_self=3),
    ViewSpec("mix-diff", k_base=2, k_self=3, k_diff=1),
    ViewSpec("mix-self", k_base=2, k_self=3, average="mixed-only"),
    ViewSpec("mix-self", k_base=2, k_self=3, extra_augment="all"),
]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("scatternet", CPU, input_size=16)


def source(count=5, seed=0):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8))
    return TensorSource(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def builder(spec, backbone):
    pool = None
    if spec.method == "mix-diff":
        pool = PublicPool(source(4, seed=9).pixels, torch.tensor([0, 1, 2, -1]))
    return ViewBuilder(spec, 3, backbone.normalization, pool)


def cache(root, backbone, views=8, **settings):
    chosen = {"seed": 0, "dtype": "float32", "view_chunk": None} | settings
    return FeatureCache(root, backbone, views, device=CPU, **chosen)


def quiet(done, total):
    pass


def named(spec):
    return f"{spec.method}-{spec.average}-{spec.extra_augment}"


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_a_row_holds_the_features_of_the_views_that_the_method_makes(tmp_path, backbone, spec):
    data, made = source(), builder(spec, backbone)
    cached = cache(tmp_path, backbone).embed_train(data, made, quiet)
    plain = cache(tmp_path, backbone).embed_test(data, quiet)
    assert torch.allclose(plain, backbone.features(data.pixels), atol=1e-5)
    for i in range(len(data)):
        draws = replace(made, spec=cached.cached).draw_views(
            1, example_rng(data.pixels[i][None], data.labels[i][None], 0)
        )
        views = replace(made, spec=cached.cached).build(
            data.pixels[i : i + 1], data.labels[i : i + 1], draws
        )
        with torch.inference_mode():
            assert torch.equal(cached.features[i], backbone.module(views.views[0]))
        if cached.soft_labels is not None:
            assert torch.equal(cached.soft_labels[i], views.labels[0])


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_a_step_draws_k_different_views_of_the_right_kinds_and_examples(tmp_path, backbone, spec):
    data = source()
    cached = cache(tmp_path, backbone).embed_train(data, builder(spec, backbone), quiet)
    examples = torch.tensor([3, 0, 3])
    with pytest.raises(DpmixError, match="holds examples with other labels"):
        cached.check_data(source(4))
    drawn = cached.sample(data, examples, np.random.default_rng(1), CPU)
    assert drawn.views.shape == (3, spec.views, 3888)
    assert cached.view_shape(data.image_shape) == (3888,)
    assert torch.allclose(drawn.labels.sum(dim=2), torch.ones(3, spec.views))
    for row, example in zip(drawn.views, examples, strict=True):
        there = cached.features[example]
        places = [int((there == view).all(dim=1).nonzero()[0]) for view in row]
        assert len(set(places)) == spec.views or spec.method == "none"
        unmixed = cached.cached.unmixed_views if spec.average == "all" else 0
        assert sum(place < unmixed for place in places) == (
            spec.unmixed_views if spec.average == "all" else 0
        )
    if spec.method != "mix-diff":
        assert drawn.labels.argmax(dim=2)[:, 0].tolist() == data.labels[examples].tolist()


def test_every_subset_of_a_kind_is_equally_likely(tmp_path, backbone):
    spec = ViewSpec("self-aug", k_base=2)
    cached = cache(tmp_path, backbone, views=4).embed_train(
        source(), builder(spec, backbone), quiet
    )
    chosen = cached._chosen(6000, np.random.default_rng(0)).sort(dim=1).values
    counts = torch.unique(chosen, dim=0, return_counts=True)[1]
    # Six pairs, 1,000 each: five standard deviations of a binomial are 144.
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 144


def test_it_is_made_once_and_again_for_other_data_weights_views_or_seed(tmp_path, backbone):
    spec, data = ViewSpec("self-aug", k_base=2), source()
    calls = []

    def made(root_cache, data, spec=spec):
        before = len(calls)
        root_cache.embed_train(
            data, builder(spec, root_cache.backbone), lambda done, total: calls.append(done)
        )
        return len(calls) > before + 1  # the rows that are there are reported first

    one = cache(tmp_path, backbone)
    assert made(one, data)
    assert not made(one, source())
    changed = source()
    changed.pixels[4, 0, 0, 0] ^= 1
    assert made(one, changed)
    assert made(one, TensorSource(data.pixels, 2 - data.labels, data.class_names))
    assert made(one, data, ViewSpec("self-aug", k_base=2, crop_padding=1))
    assert made(one, data, ViewSpec("self-aug", k_base=2, extra_augment="cutout"))
    assert made(cache(tmp_path, backbone, views=9), data)
    assert made(cache(tmp_path, backbone, seed=1), data)
    assert made(cache(tmp_path, backbone, dtype="float16"), data)
    other = load_backbone("scatternet", CPU, input_size=20)
    assert made(cache(tmp_path, other), data)
    assert not made(one, data)


def test_a_cache_that_was_stopped_ends_up_the_same(tmp_path, backbone):
    made, data = builder(ViewSpec("mix-self", k_base=2, k_self=2), backbone), source(9)

    def stop(done, total):
        if done >= 5 * 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path / "a", backbone).embed_train(data, made, stop)
    again = cache(tmp_path / "a", backbone).embed_train(data, made, quiet)
    straight = cache(tmp_path / "b", backbone).embed_train(data, made, quiet)
    assert torch.equal(again.features, straight.features)


def test_the_views_pass_in_pieces_with_the_same_result(tmp_path, backbone):
    spec, data = ViewSpec("mix-self", k_base=2, k_self=3), source()
    whole, pieces = (
        cache(tmp_path / str(chunk), backbone, view_chunk=chunk).embed_train(
            data, builder(spec, backbone), quiet
        )
        for chunk in (None, 3)
    )
    assert torch.allclose(whole.features, pieces.features, atol=1e-5)


def test_views_that_join_examples_and_too_few_views_are_refused(tmp_path, backbone):
    joined = builder(ViewSpec("microbatch-mixup", k_base=2), backbone)
    with pytest.raises(DpmixError, match=r"joins other examples .*--fresh-views"):
        cache(tmp_path, backbone).check(joined)
    with pytest.raises(DpmixError, match="cache_views is 8; a step of mix-self averages 34"):
        cache(tmp_path, backbone).check(builder(ViewSpec("mix-self"), backbone))


def test_the_cost_of_a_view_is_measured_without_a_private_image(tmp_path, backbone):
    seconds = cache(tmp_path, backbone).seconds_per_view(
        (3, 16, 16), builder(ViewSpec("self-aug", k_base=2), backbone)
    )
    assert 0 < seconds < 10
    assert not any(tmp_path.iterdir())


def test_the_parallel_map_keeps_the_order_and_gives_the_threads_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with cpu_parallel_map(torch.device("cpu")) as map_:
            rows = list(map_(lambda a, b: (a * b, torch.get_num_threads()), range(50), range(50)))
        assert [value for value, _ in rows] == [i * i for i in range(50)]
        assert {count for _, count in rows} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_run_that_waited_until_another_had_made_all_uses_it(tmp_path, backbone):
    data, made, found = source(), builder(ViewSpec("self-aug", k_base=2), backbone), []
    asked = threading.Event()

    def wait_for_it():
        with pytest.warns(UserWarning, match="another run is embedding the same views"):
            second = cache(tmp_path, backbone)
            found.append(second.embed_train(data, made, lambda done, total: asked.set()))

    waiting = threading.Thread(target=wait_for_it)

    def start_another(done, total):
        if 0 < done < total and not asked.is_set():
            waiting.start()
            assert asked.wait(10)
            waiting.join(0.3)  # until it waits for the lock

    first = cache(tmp_path, backbone).embed_train(data, made, start_another)
    waiting.join(10)
    assert torch.equal(found[0].features, first.features)
