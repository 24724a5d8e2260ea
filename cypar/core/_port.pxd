"""What _port.h offers, and what Cython's own declarations of Python lack."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "_port.h" nogil:
    # atomics: load acquires, store releases, the others are sequentially consistent
    uint32_t port_load32(const uint32_t* word) noexcept
    void port_store32(uint32_t* word, uint32_t value) noexcept
    uint32_t port_add32(uint32_t* word, uint32_t value) noexcept
    bint port_cas32(uint32_t* word, uint32_t expected, uint32_t desired) noexcept
    uint32_t port_swap32(uint32_t* word, uint32_t value) noexcept
    uint64_t port_load64(const uint64_t* word) noexcept
    void port_store64(uint64_t* word, uint64_t value) noexcept
    bint port_cas64(uint64_t* word, uint64_t expected, uint64_t desired) noexcept
    uint64_t port_add64(uint64_t* word, uint64_t value) noexcept
    void port_fence() noexcept  # sequentially consistent

    int64_t port_monotonic_ns() noexcept
    void port_pause() noexcept
    void port_spin_step() noexcept
    void port_spin_on(const uint32_t* word, uint32_t expected) noexcept

    uint64_t port_thread_id() noexcept
    # one pointer per thread and extension module
    void* port_get_here() noexcept
    void port_set_here(void* pointer) noexcept
    uint32_t PORT_NOWHERE
    uint32_t port_processor() noexcept
    bint port_attached() noexcept
    # NULL if the caller did not hold the GIL; attach gives back what detach took
    void* port_detach() noexcept
    void port_attach(void* state) noexcept
    # of this thread; also without the GIL
    PyObject* const* port_exception_place() noexcept

    # 0 woken or the word differs, 1 timeout, 2 signal; timeout_ns < 0: none
    int port_park(uint32_t* word, uint32_t expected, int64_t timeout_ns) noexcept
    void port_unpark(uint32_t* word, int n_threads) noexcept

    # system calls; negative results are -errno
    int port_above_standard(int fd) noexcept
    int port_socketpair(int* fds) noexcept
    ssize_t port_send(int fd, const void* data, size_t size, bint wait) noexcept
    ssize_t port_recv(int fd, void* data, size_t size, bint wait) noexcept
    int port_memory_fd(const char* label) noexcept
    int port_process_fd(int pid) noexcept
    int port_die_with_parent(int pid) noexcept
    int port_die_with_pipe(int fd) noexcept
    int port_read_umask() noexcept

    # memory segments; negative results are -errno
    int port_segment_fd(const char* label) noexcept
    int port_allocate(int fd, int64_t offset, int64_t size) noexcept
    int port_punch(int fd, int64_t size) noexcept
    void* port_map_shared(int fd, size_t size) noexcept
    int port_collapse(char* address, size_t size) noexcept
    void port_prefetch(const void* address) noexcept
    void port_huge_pages(void* address, size_t size) noexcept

    # making pages of shared memory; negative results are -errno
    int port_filler(uint64_t begin, uint64_t size) noexcept
    void port_end_filler(int fd, uint64_t begin, uint64_t size) noexcept
    int port_fill_pages(int fd, char* target, const char* source, size_t n,
                        size_t* done) noexcept

    # which pages were written to; negative results are -errno
    ctypedef struct port_pages:
        uint64_t begin, end, categories
    int port_watch_fd() noexcept
    int port_watch(int fd, uint64_t begin, uint64_t size) noexcept
    int port_unwatch(int fd, uint64_t begin, uint64_t size) noexcept
    int port_scan_written(int pagemap, uint64_t begin, uint64_t* end,
                          port_pages* found, int n_found) noexcept
    int port_is_private(int maps, uint64_t begin, uint64_t end) noexcept

    ctypedef struct pthread_t:
        pass
    int port_thread_start(pthread_t* thread, void* (*run)(void*) noexcept nogil,
                          void* argument) noexcept
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_destroy(pthread_mutex_t* mutex) noexcept
    int pthread_join(pthread_t thread, void** value) noexcept


# Cython has no declaration of these that take a borrowed reference.
cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    void PyObject_GC_Track(PyObject*)
    void PyObject_GC_UnTrack(PyObject*)
    int PyObject_GC_IsTracked(PyObject*)
