"""What the allocator of the C library does with large buffers."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE_BYTES = 1 << 20


def return_large_buffers() -> bool:
    """Have buffers of a mebibyte and more given back as soon as they are freed; whether the C
    library can do so (glibc does, musl has other ways).

    Unless told so glibc takes the first large buffer that is freed for the size of those to come,
    up to 32 MiB, and serves them from the arenas of its threads, which keep what they once held.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE_BYTES))
