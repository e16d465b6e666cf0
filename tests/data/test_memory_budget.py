import threading
import time
from concurrent.futures import ThreadPoolExecutor

from dpmix.data.image import MemoryBudget


def test_threads_together_stay_within_the_limit():
    budget, lock = MemoryBudget(10), threading.Lock()
    held, most = [0], [0]

    def work(size):
        with budget.hold(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1, 4, 7, 10, 3] * 8))
    assert 7 <= most[0] <= 10


def test_a_request_above_the_limit_works_alone():
    budget, entered = MemoryBudget(10), threading.Event()
    with budget.hold(1):
        large = threading.Thread(target=lambda: _enter(budget, 50, entered))
        large.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    large.join()


def test_memory_is_given_back_after_an_error():
    budget = MemoryBudget(10)
    for _ in range(3):
        try:
            with budget.hold(10):
                raise RuntimeError
        except RuntimeError:
            pass
    with budget.hold(10):
        pass


def _enter(budget, size, entered):
    with budget.hold(size):
        entered.set()
