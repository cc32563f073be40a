"""Blocks of anonymous shared memory, and arrays that give their block back.

A block is a memfd: it has no name, no size limit of /dev/shm, and vanishes with its
last user. What `lease` returns is an ordinary array over a block; when the array and
all views of it are gone, the block is free for another call. So a result costs no
copy, and is still the caller's own for as long as it is held.
"""

import mmap
import os
import weakref
from collections import deque
from itertools import count

import numpy as np

_SMALLEST = 1 << 20


class Block:
    """Shared memory that grows no more.

    Attributes:
      number: by which messages name it.
      size: bytes.
      descriptor: of the memfd; sent to the workers.
      mapping: writable memory.
    """

    def __init__(self, number: int, size: int):
        self.number = number
        self.size = size
        self.descriptor = os.memfd_create(f"render-{number}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, size)
            self.mapping = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Closes the descriptor; the memory goes when no array uses it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Lease:
    """Owner of the memory of one array; numpy keeps it alive through views."""

    def __init__(self, block: Block, shape: tuple[int, ...]):
        self._keep = block.mapping
        address = np.frombuffer(block.mapping, np.uint8).ctypes.data
        self.__array_interface__ = {
            "version": 3,
            "typestr": "<f4",
            "shape": shape,
            "data": (address, False),
        }


class BlockStore:
    """Makes blocks, and hands free ones out again.

    Args:
      spare_bytes: free blocks beyond this many bytes in all are given up, oldest
        first.
    """

    def __init__(self, spare_bytes: int = 1 << 28):
        self._spare_bytes = spare_bytes
        self._numbers = count()
        self._free: list[Block] = []
        # Finalizers run in any thread at any time; appending is all they do.
        self._returned: deque[Block] = deque()
        self.blocks: dict[int, Block] = {}

    def take(self, size: int) -> tuple[Block, bool, list[Block]]:
        """A block of at least `size` bytes.

        Returns:
          The block, whose contents are undefined; whether it is new; and blocks that
          were given up. The workers must be told of both.
        """
        while self._returned:
            self._free.append(self._returned.popleft())
        fitting = [b for b in self._free if size <= b.size <= max(4 * size, _SMALLEST)]
        new = not fitting
        if fitting:
            block = min(fitting, key=lambda b: b.size)
            self._free.remove(block)
        else:
            # An eighth to spare, so that slowly growing calls do not each make one.
            room = max(size + size // 8, _SMALLEST)
            block = Block(next(self._numbers), (room + 4095) // 4096 * 4096)
            self.blocks[block.number] = block
        dropped = []
        while sum(b.size for b in self._free) > self._spare_bytes:
            dropped.append(self._free.pop(0))
            del self.blocks[dropped[-1].number]
            dropped[-1].close()
        return block, new, dropped

    def give_back(self, block: Block) -> None:
        """Frees a block that was not leased."""
        self._returned.append(block)

    def lease(self, block: Block, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array over the block, which is free again when the array is gone.

        Args:
          block: from `take`.
          shape: its product times four bytes fit into the block.
        """
        owner = _Lease(block, shape)
        weakref.finalize(owner, self._returned.append, block).atexit = False
        return np.asarray(owner)

    def close(self) -> None:
        """Closes all descriptors; arrays that are still held stay valid."""
        for block in self.blocks.values():
            block.close()
        self.blocks.clear()
        self._free.clear()
