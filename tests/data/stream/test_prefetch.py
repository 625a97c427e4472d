"""The threads of a loader: what is asked of them is done once, by them, or at once where there are none."""

import queue
import threading

import pytest

from fm9g.data.stream.prefetch import Prefetcher


class Dataset:
    """Notes which records are asked for, and by which thread."""

    def __init__(self):
        self.asked = queue.Queue()

    def will_need(self, record):
        self.asked.put((record, threading.current_thread().name))


def test_records_are_asked_for_by_threads():
    dataset = Dataset()
    prefetcher = Prefetcher(threads=2, depth=1)
    prefetcher.want([(dataset, 2), (dataset, 0)])  # type: ignore[list-item]
    prefetcher.want([(dataset, 1)])  # type: ignore[list-item]
    assert dataset.asked.empty()
    prefetcher.start()
    found = [dataset.asked.get(timeout=60) for _ in range(3)]
    assert sorted(record for record, _ in found) == [0, 1, 2]
    assert all(thread.startswith("fm9g-read") for _, thread in found)
    prefetcher.start()
    prefetcher.want([(dataset, 3)])  # type: ignore[list-item]
    prefetcher.start()
    assert dataset.asked.get(timeout=60)[0] == 3  # nothing is asked for twice


@pytest.mark.parametrize(("threads", "by"), [(0, "MainThread"), (2, "fm9g-tokenize_0")])
def test_tokenizing_is_done_by_a_thread_if_there_is_one(threads, by):
    assert Prefetcher(threads, 1).tokenize(lambda: threading.current_thread().name).result(60) == by


def test_reading_ahead_without_threads_is_off():
    assert Prefetcher(threads=0, depth=5).depth == 0
