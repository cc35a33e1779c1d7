import threading
import time

import pytest

from shutterless.room import Room


def test_never_more_pixels_than_there_is_room_for():
    room, held, most, lock = Room(10), [0], [0], threading.Lock()

    def hold(pixels):
        with room.taken(pixels):
            with lock:
                held[0] += pixels
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= pixels

    threads = [threading.Thread(target=hold, args=(1 + i % 7,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert held == [0]
    assert 7 <= most[0] <= 10


def test_what_is_larger_than_the_room_gets_all_of_it():
    with Room(10).taken(1000):
        pass


def test_room_is_given_back_after_an_error():
    room = Room(10)
    with pytest.raises(KeyError), room.taken(10):
        raise KeyError
    with room.taken(10):
        pass
