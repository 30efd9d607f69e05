"""Arrays with an inaccessible page right after their last byte, or right before their first: a stray access crashes."""

import ctypes
import mmap

import numpy as np

_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def at_page_end(array):
    """A C-contiguous copy whose last byte is followed by a page that cannot be touched."""
    return _copy(array, -array.nbytes % mmap.PAGESIZE)


def at_page_start(array):
    """A C-contiguous copy whose first byte follows a page that cannot be touched."""
    return _copy(array, 0)


def _copy(array, offset):
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, pages + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + page + pages):
        if _libc.mprotect(guard, page, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    copy = np.frombuffer(memory, array.dtype, array.size, page + offset).reshape(array.shape)
    copy[...] = array
    return copy
