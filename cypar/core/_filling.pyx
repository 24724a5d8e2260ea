"""Copy to shared memory, whose pages may not exist yet, without the GIL.

What was measured (2 cores, 200 MB, Linux 6.18, ms, one thread / two threads):

- new pages of a memfd, 4 KiB each, by page faults 192-210 / 105-140, by write() 90-107
  / 102-110, since it locks the file, by UFFDIO_COPY 91-109 / 50-62, by write() in one
  thread and page faults in the other 69;
- huge pages, by MADV_COLLAPSE of memory that is not there 34-37 / 26-31, of which
  making and clearing the pages is 18. Readers save, too: 1.1 instead of 12.6 ms for
  one look at each page, and giving the memory back takes 0.8 instead of 50 ms;
- memcpy into pages that exist and are not mapped by this process costs 5.5 times as
  much as into mapped ones, and after one read per page (which maps 16 pages per fault,
  writable) 1.6 times.

Hence `fill` tries, for what does not exist, huge pages, then UFFDIO_COPY in two
threads, then write(), whose error is an error and not a SIGBUS, with page faults in a
second thread. What exists and is not mapped is read before it is written.

Making huge pages may be slow where memory is fragmented (the kernel moves other pages
out of the way), so that stops as soon as it does not pay, and is left alone for a while
that doubles each time.

Thread safety: plain functions; the caller keeps the memory alive and to itself.
"""

import sys

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport memcpy
from posix.unistd cimport pwrite

from cypar.core._port cimport (
    port_add32, port_allocate, port_cas32, port_collapse, port_end_filler,
    port_fill_pages, port_filler, port_load32, port_monotonic_ns, port_store32,
    port_thread_start, pthread_join, pthread_mutex_destroy,
    pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock,
    pthread_t,
)

cdef size_t PAGE = 4096
cdef size_t BLOCK = 1 << 20          # bytes that one of two threads takes
cdef size_t TWO_THREADS = 16 << 20   # a thread costs 40 us to start, 0.5 MB of copying
cdef size_t HUGE_PAGE = 2 << 20
cdef size_t HUGE_BLOCK = 8 << 20     # made at a time: every call stops all processors
cdef size_t WORTH_HUGE = 4 << 20     # bytes
# UFFDIO_COPY and write() take 0.5 to 1 ms for as much; a huge page usually 0.2.
cdef int64_t SLOW_NS = 1_000_000     # for a huge page
cdef int64_t SLACK_NS = 3_000_000    # for what else runs on this processor
cdef uint32_t MAX_LEFT_OUT = 64      # copies


cdef int read_huge_page_size() except -1:
    """What the processor's huge pages are: 64 KiB base pages have other ones."""
    if sys.platform != "linux":
        return 0
    try:
        with open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):  # none, or no /sys
        return 0


cdef bint _has_huge_pages = <size_t>read_huge_page_size() == HUGE_PAGE
cdef uint32_t _left_out = 0      # copies that the last failure was answered with
cdef uint32_t _to_leave_out = 0  # of these, how many are to come

cdef volatile uint8_t _sink = 0  # keeps the compiler from dropping reads


cdef void touch(const char* data, size_t n, size_t step) noexcept nogil:
    """Map a block's pages by reading from each; new ones come into being."""
    cdef uint8_t total = 0
    cdef size_t i = 0
    global _sink
    while i < n:
        total += (<const volatile uint8_t*>data)[i]
        i += step
    _sink = total


cdef int write_all(int fd, int64_t offset, const char* source, size_t n) noexcept nogil:
    """Make pages by writing; -errno when there is no space for them."""
    cdef size_t done = 0
    cdef Py_ssize_t written
    while done < n:
        written = pwrite(fd, source + done, n - done, offset + <int64_t>done)
        if written < 0:
            if errno == EINTR:
                continue
            return -errno
        done += written
    return 0


# ---- pages that exist ------------------------------------------------------------


cdef struct Copy:
    char* target
    const char* source
    size_t n


cdef void* copy_thread(void* argument) noexcept nogil:
    cdef Copy* job = <Copy*>argument
    memcpy(job.target, job.source, job.n)
    return NULL


cdef void copy_ready(char* target, const char* source, size_t n, size_t n_touched,
                     bint two_threads) noexcept nogil:
    """Copy to pages that exist."""
    cdef pthread_t thread
    cdef Copy job
    cdef size_t size
    if n_touched < n:
        n_touched &= ~(PAGE - 1)
        touch(target + n_touched, n - n_touched, PAGE)
    if two_threads and n >= TWO_THREADS:
        size = (n // 2) & ~(PAGE - 1)
        job.target = target + size
        job.source = source + size
        job.n = n - size
        if port_thread_start(&thread, &copy_thread, &job) == 0:
            memcpy(target, source, size)
            pthread_join(thread, NULL)
            return
    memcpy(target, source, n)


# ---- huge pages --------------------------------------------------------------------


cdef struct HugeFilling:
    char* target
    const char* source
    int fd                 # of the file that the target maps
    int64_t offset         # of the target in it
    char* end              # of the last whole huge page
    pthread_mutex_t lock   # of what follows; copying needs no lock
    char* next             # where the next block begins
    bint stopped           # it does not work, or does not pay
    size_t n_made          # huge pages
    int64_t spent_ns       # on making them


cdef size_t make_huge(HugeFilling* job) noexcept nogil:
    """Make the next block's huge pages; returns its size, 0 if there is none.

    The caller holds the lock: two threads at it would wait for each other in the
    kernel, while one of them could copy.
    """
    cdef size_t size = min(HUGE_BLOCK, <size_t>(job.end - job.next)), i = 0
    cdef int64_t begin
    if job.stopped or job.next >= job.end:
        return 0
    if job.n_made == 0:
        size = HUGE_PAGE  # a trial
    begin = port_monotonic_ns()
    # Nothing at all cannot be put on a huge page: one page of each must be there. It is
    # allocated first, since a fault that finds no space is a SIGBUS.
    while not job.stopped and i < size:
        job.stopped = port_allocate(
            job.fd, job.offset + (job.next - job.target) + <int64_t>i, PAGE
        ) != 0
        i += HUGE_PAGE
    if job.stopped:
        return 0
    touch(job.next, size, HUGE_PAGE)
    if port_collapse(job.next, size) != 0:
        job.stopped = True
        return 0
    job.spent_ns += port_monotonic_ns() - begin
    job.n_made += size // HUGE_PAGE
    if job.spent_ns > <int64_t>job.n_made * SLOW_NS + SLACK_NS:
        job.stopped = True
    job.next += size
    return size


cdef void* fill_huge_blocks(void* argument) noexcept nogil:
    """Make blocks and copy to them, one after the other."""
    cdef HugeFilling* job = <HugeFilling*>argument
    cdef char* begin
    cdef size_t size
    while True:
        pthread_mutex_lock(&job.lock)
        begin = job.next
        size = make_huge(job)
        pthread_mutex_unlock(&job.lock)
        if size == 0:
            return NULL
        if begin < job.target:  # the first huge page begins before it
            size -= job.target - begin
            begin = job.target
        memcpy(begin, job.source + (begin - job.target), size)


cdef bint may_try_huge() noexcept nogil:
    cdef uint32_t left = port_load32(&_to_leave_out)
    while left > 0:
        if port_cas32(&_to_leave_out, left, left - 1):
            return False
        left = port_load32(&_to_leave_out)
    return _has_huge_pages


cdef size_t to_huge_page(const char* target, int64_t offset) noexcept nogil:
    """How many bytes to write in another way before huge pages can begin.

    In the middle of a huge page, the rest may be what another thread fills. At the
    beginning of the file there is only what is too small for that.
    """
    if <size_t>offset < PAGE:
        return 0
    return (HUGE_PAGE - <uintptr_t>target % HUGE_PAGE) % HUGE_PAGE


cdef size_t fill_huge(char* target, int fd, int64_t offset, const char* source,
                      size_t n, bint two_threads) noexcept nogil:
    """Copy to new huge pages, from the front; returns how many bytes are done.

    ``target`` is where a huge page begins, or nearly.
    """
    cdef HugeFilling job
    cdef pthread_t thread
    cdef uintptr_t mask = ~<uintptr_t>(HUGE_PAGE - 1)
    cdef bint helped = False
    if not may_try_huge():
        return 0
    job.target = target
    job.source = source
    job.fd = fd
    job.offset = offset
    # The few bytes before the target, if any, stay what they are.
    job.next = <char*>(<uintptr_t>target & mask)
    job.end = <char*>(<uintptr_t>(target + n) & mask)
    job.stopped = False
    job.n_made = 0
    job.spent_ns = 0
    pthread_mutex_init(&job.lock, NULL)
    if two_threads:
        helped = port_thread_start(&thread, &fill_huge_blocks, &job) == 0
    fill_huge_blocks(&job)
    if helped:
        pthread_join(thread, NULL)
    pthread_mutex_destroy(&job.lock)
    if job.stopped:
        port_store32(
            &_left_out, min(2 * port_load32(&_left_out) + 1, MAX_LEFT_OUT)
        )
        port_store32(&_to_leave_out, port_load32(&_left_out))
    else:
        port_store32(&_left_out, 0)
    return job.next - target if job.next > target else 0


def leave_out_huge_pages(uint32_t n_copies):
    """Do without huge pages for that many large copies; 0: try with the next one.

    Examples
    --------
    >>> leave_out_huge_pages(0)
    """
    port_store32(&_to_leave_out, n_copies)
    port_store32(&_left_out, 0)


# ---- pages of the usual size ---------------------------------------------------------


cdef struct Filling:
    char* target
    const char* source
    size_t n
    int fd                 # of the file that the target maps
    int64_t offset         # of the target in it
    int filler             # descriptor to make pages with, or negative
    uint32_t taken         # blocks that one of the two threads has taken
    uint32_t unmapped      # 1: some pages are there and not mapped
    uint32_t failed        # errno of the thread that fills from the end


cdef int fill_block(
    Filling* job, size_t begin, size_t n, bint write
) noexcept nogil:
    """Make pages from a copy; where it cannot be, write or take the faults.

    With a filler there must be no fault: it would wait for ever.
    """
    cdef size_t done = 0
    if job.filler >= 0:
        if port_fill_pages(
            job.filler, job.target + begin, job.source + begin, n, &done
        ) == 0:
            return 0
        # A page is there already, or there is no space, which writing finds out again.
        port_store32(&job.unmapped, 1)
    elif not write:
        memcpy(job.target + begin, job.source + begin, n)
        return 0
    begin += done
    return write_all(
        job.fd, job.offset + <int64_t>begin, job.source + begin, n - done
    )


cdef void* fill_from_the_end(void* argument) noexcept nogil:
    """Fill blocks, the last one first, until the other thread comes along."""
    cdef Filling* job = <Filling*>argument
    cdef size_t n_blocks = (job.n + BLOCK - 1) // BLOCK, begin
    cdef size_t last = n_blocks
    cdef int status = 0
    while status == 0 and port_add32(&job.taken, 1) < n_blocks:
        last -= 1
        begin = last * BLOCK
        status = fill_block(job, begin, min(BLOCK, job.n - begin), False)
    port_store32(&job.failed, <uint32_t>-status)
    return NULL


cdef int fill_usual(char* target, int fd, int64_t offset, const char* source, size_t n,
                    bint* is_mapped) noexcept nogil:
    """Copy to where there are no pages yet, in two threads.

    One thread fills pages from the front and one from the end. Where the kernel cannot
    make pages from a copy, the first one writes: two that write would wait for each
    other.
    """
    cdef Filling job
    cdef pthread_t thread
    cdef size_t head, tail, n_blocks, done = 0
    cdef int status = 0
    # a filler fills whole pages
    head = (PAGE - <uintptr_t>target % PAGE) % PAGE
    tail = <uintptr_t>(target + n) % PAGE
    job.target = target + head
    job.source = source + head
    job.n = n - head - tail
    job.fd = fd
    job.offset = offset + <int64_t>head
    job.taken = 0
    job.unmapped = 0
    job.failed = 0
    job.filler = port_filler(<uintptr_t>job.target, job.n)
    n_blocks = (job.n + BLOCK - 1) // BLOCK
    is_mapped[0] = False
    if port_thread_start(&thread, &fill_from_the_end, &job) != 0:
        status = write_all(fd, offset, source, n)
    else:
        status = write_all(fd, offset, source, head)
        if status == 0:
            status = write_all(
                fd, offset + <int64_t>(n - tail), source + (n - tail), tail
            )
        while status == 0 and port_add32(&job.taken, 1) < n_blocks:
            status = fill_block(&job, done, min(BLOCK, job.n - done), True)
            done += BLOCK
            if status == 0:
                status = -<int>port_load32(&job.failed)
        if status != 0:
            port_add32(&job.taken, <uint32_t>n_blocks)  # the other one stops, too
        pthread_join(thread, NULL)
        if status == 0:
            status = -<int>job.failed
        is_mapped[0] = job.filler >= 0 and job.unmapped == 0
    if job.filler >= 0:
        port_end_filler(job.filler, <uintptr_t>job.target, job.n)
    return status


# ---- both --------------------------------------------------------------------------


cdef int fill(char* target, int fd, int64_t offset, const char* source, size_t n,
              size_t n_ready, size_t* n_touched, bint two_threads,
              bint in_memory) noexcept nogil:
    """Copy ``n`` bytes to ``target``, which maps ``fd`` at ``offset``.

    ``n_ready`` of them have pages, and ``n_touched`` of these are mapped here;
    afterwards it is how many are. ``in_memory``: not a file on some disk, where a page
    fault may be a SIGBUS.
    """
    cdef bint is_mapped = True, was_mapped
    cdef int status = 0
    cdef size_t done = min(n, n_ready), head
    two_threads = two_threads and in_memory
    if done:
        copy_ready(target, source, done, min(done, n_touched[0]), two_threads)
    n_touched[0] = done
    if in_memory and n - done >= WORTH_HUGE:
        head = to_huge_page(target + done, offset + <int64_t>done)
        if head:
            status = write_all(fd, offset + <int64_t>done, source + done, head)
            if status != 0:
                return status
            done += head
            is_mapped = False
        done += fill_huge(
            target + done, fd, offset + <int64_t>done, source + done, n - done,
            two_threads and n - done >= TWO_THREADS,
        )
        if is_mapped:
            n_touched[0] = done
    target += done
    offset += <int64_t>done
    source += done
    n -= done
    if two_threads and n >= TWO_THREADS:
        was_mapped = is_mapped
        status = fill_usual(target, fd, offset, source, n, &is_mapped)
        if is_mapped and was_mapped:
            n_touched[0] += n
    elif n:
        status = write_all(fd, offset, source, n)
    return status


cdef int make_ready(char* target, int fd, int64_t offset, size_t n, size_t n_ready,
                    size_t n_touched) noexcept nogil:
    """Give all of a block its pages and map them, to write to any part of it."""
    cdef int status
    n_ready = min(n, n_ready)
    if n_ready < n:
        status = port_allocate(fd, offset + <int64_t>n_ready, n - n_ready)
        if status != 0:
            return status
    if n_touched < n:
        n_touched &= ~(PAGE - 1)
        touch(target + n_touched, n - n_touched, PAGE)
    return 0
