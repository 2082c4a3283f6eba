from __future__ import annotations

from threading import Thread

import torch

from ml.recommenders.generative.room import Room


def test_a_room_is_used_again_and_grows_and_large_ones_are_not_kept() -> None:
    room, like = Room(), torch.zeros(2)
    first = room.take("a", like, 2, 3)
    assert (first.shape, first.dtype) == ((2, 3), torch.float32)
    assert room.take("a", like, 5).data_ptr() == first.data_ptr()
    assert room.take("b", like, 5).data_ptr() != first.data_ptr()
    assert room.take("a", like, 4, 4).shape == (4, 4)
    assert room.take("a", like.double(), 2).dtype == torch.float64
    assert room.take("c", like, 2**22 + 1).shape == (2**22 + 1,)
    assert set(room.held) == {"a", "b"}
    others: list[int] = []
    thread = Thread(target=lambda: others.append(room.take("b", like, 5).data_ptr()))
    thread.start()
    thread.join()
    assert others != [room.take("b", like, 5).data_ptr()]
