"""One example a core."""

import torch

from dpmix.training.feature_cache import cpu_parallel_map


def test_it_keeps_the_order_and_gives_the_threads_back(monkeypatch):
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


def test_one_at_a_time_off_the_cpu():
    with cpu_parallel_map(torch.device("meta")) as map_:
        assert map_ is map
