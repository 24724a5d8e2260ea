/* Everything that differs between platforms and compilers, in one place.
 *
 * The only hand-written C of the project: atomics, the monotonic clock,
 * park/unpark of a thread on a 32-bit word, and the few system calls that the
 * process pool needs. Declared for Cython in _port.pxd.
 */
#ifndef CYPAR_PORT_H
#define CYPAR_PORT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* ---- atomics: gcc and clang ------------------------------------------------ */

static inline uint32_t port_load32(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline void port_store32(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint32_t port_add32(uint32_t *word, uint32_t value) {
    return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}
static inline int port_cas32(uint32_t *word, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(word, &expected, desired, 0,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline uint32_t port_swap32(uint32_t *word, uint32_t value) {
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}
static inline uint64_t port_load64(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline void port_store64(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline int port_cas64(uint64_t *word, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(word, &expected, desired, 0,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline uint64_t port_add64(uint64_t *word, uint64_t value) {
    return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}

static inline void port_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- clock ------------------------------------------------------------------ */

static inline int64_t port_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void port_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
/* One step of a short spin: a few pauses, then others may have the processor. */
static inline void port_spin_step(void) {
    for (int i = 0; i < 16; i++)
        port_pause();
    sched_yield();
}
/* The same without giving the processor away, and it ends at once when *word differs
 * from expected. */
static inline void port_spin_on(const uint32_t *word, uint32_t expected) {
    for (int i = 0; i < 16 && port_load32(word) == expected; i++)
        port_pause();
}

/* ---- the current thread ------------------------------------------------------ */

static inline uint64_t port_thread_id(void) {
    return (uint64_t)(uintptr_t)pthread_self();
}
/* One pointer per thread, and one set of them per extension module. */
static __thread void *port_thread_pointer;
static inline void *port_get_here(void) {
    return port_thread_pointer;
}
static inline void port_set_here(void *pointer) {
    port_thread_pointer = pointer;
}

/* The processor that runs this thread, or did a moment ago; PORT_NOWHERE: unknown. */
#define PORT_NOWHERE 0xffffffffu
static inline uint32_t port_processor(void) {
#ifdef __linux__
    int number = sched_getcpu();
    return number < 0 ? PORT_NOWHERE : (uint32_t)number;
#else
    return PORT_NOWHERE;
#endif
}
/* Code that may be called with or without the GIL lets go of it and takes it back. */
static inline int port_attached(void) {
    return PyGILState_Check();
}
static inline void *port_detach(void) {
    return PyGILState_Check() ? PyEval_SaveThread() : NULL;
}
static inline void port_attach(void *state) {
    if (state != NULL)
        PyEval_RestoreThread((PyThreadState *)state);
}
/* Where this thread keeps the Python exception that is set, NULL if there is none. Only
 * the thread itself writes there, so it may look without the GIL. */
static inline PyObject *const *port_exception_place(void) {
    static PyObject *const nothing = NULL;
    PyThreadState *state = PyGILState_GetThisThreadState();
    if (state == NULL)
        return &nothing;
#if PY_VERSION_HEX >= 0x030C0000
    return &state->current_exception;
#else
    return &state->curexc_type;
#endif
}

/* ---- park and unpark -------------------------------------------------------- */

/* Wait until *word differs from expected, another thread unparks, a signal
 * arrives or timeout_ns has passed (negative: no timeout). Returns 0 when woken
 * or when the word differs, 1 on timeout, 2 on a signal. Spurious returns of 0
 * are allowed: callers check their condition again. Call without the GIL. */
#ifdef __linux__

static inline int port_park(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec ts, *limit = NULL;
    if (timeout_ns >= 0) {
        ts.tv_sec = timeout_ns / 1000000000LL;
        ts.tv_nsec = timeout_ns % 1000000000LL;
        limit = &ts;
    }
    if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, limit, NULL, 0) == 0)
        return 0;
    if (errno == ETIMEDOUT)
        return 1;
    return errno == EINTR ? 2 : 0;
}
static inline void port_unpark(uint32_t *word, int n_threads) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n_threads, NULL, NULL, 0);
}

#else /* a table of condition variables, found by the word's address */

#define PORT_BUCKETS 64
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} port_bucket;
/* One table per extension module: words are never shared between modules. */
static port_bucket port_buckets[PORT_BUCKETS];
static pthread_once_t port_buckets_once = PTHREAD_ONCE_INIT;
static void port_buckets_init(void) {
    for (int i = 0; i < PORT_BUCKETS; i++) {
        pthread_mutex_init(&port_buckets[i].mutex, NULL);
        pthread_cond_init(&port_buckets[i].changed, NULL);
    }
}
static inline port_bucket *port_bucket_of(uint32_t *word) {
    pthread_once(&port_buckets_once, port_buckets_init);
    return &port_buckets[((uintptr_t)word >> 4) % PORT_BUCKETS];
}
static inline int port_park(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    port_bucket *bucket = port_bucket_of(word);
    /* Condition variables never return on a signal, so no wait is longer than
     * 50 ms: callers look for signals whenever they come back. */
    int64_t slice = 50000000LL;
    int capped = timeout_ns < 0 || timeout_ns > slice, status = 0;
    struct timespec until;
    if (!capped)
        slice = timeout_ns;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (until.tv_nsec + slice) / 1000000000LL;
    until.tv_nsec = (until.tv_nsec + slice) % 1000000000LL;
    pthread_mutex_lock(&bucket->mutex);
    if (port_load32(word) == expected)
        status = pthread_cond_timedwait(&bucket->changed, &bucket->mutex, &until);
    pthread_mutex_unlock(&bucket->mutex);
    if (status == ETIMEDOUT)
        return capped ? 2 : 1;
    return 0;
}
static inline void port_unpark(uint32_t *word, int n_threads) {
    port_bucket *bucket = port_bucket_of(word);
    (void)n_threads; /* a bucket is shared by several words: wake all */
    pthread_mutex_lock(&bucket->mutex);
    pthread_cond_broadcast(&bucket->changed);
    pthread_mutex_unlock(&bucket->mutex);
}

#endif

/* ---- system calls of the process pool; each returns -errno on failure ------- */

/* A program may run with stdin, stdout or stderr closed. The system gives their numbers
 * to whatever is opened next, and code that knows no better writes messages there. So
 * descriptors that are kept get higher ones. Takes fd, closed on exec, or an error. */
static inline int port_above_standard(int fd) {
    if (fd < 0 || fd > 2)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (moved < 0)
        moved = -errno;
    close(fd);
    return moved;
}
static inline int port_socketpair(int fds[2]) {
#ifdef SOCK_CLOEXEC
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return -errno;
#else
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        return -errno;
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
#endif
    for (int i = 0; i < 2; i++) {
        int moved = port_above_standard(fds[i]);
        if (moved < 0) {
            close(fds[1 - i]);
            return moved;
        }
        fds[i] = moved;
    }
    return 0;
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static inline ssize_t port_send(int fd, const void *data, size_t size, int wait) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    return n >= 0 ? n : -errno;
}
static inline ssize_t port_recv(int fd, void *data, size_t size, int wait) {
    ssize_t n = recv(fd, data, size, wait ? 0 : MSG_DONTWAIT);
    return n >= 0 ? n : -errno;
}
/* Memory that processes can share by descriptor; it never has a name. */
static inline int port_memory_fd(const char *label) {
#if defined(__linux__) && defined(SYS_memfd_create)
    int fd = (int)syscall(SYS_memfd_create, label, 1u /* MFD_CLOEXEC */);
    return port_above_standard(fd >= 0 ? fd : -errno);
#else
    char path[] = "/tmp/cypar-XXXXXX";
    int fd = mkstemp(path);
    (void)label;
    if (fd < 0)
        return -errno;
    unlink(path);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return port_above_standard(fd);
#endif
}
/* A descriptor that becomes readable when process pid ends. */
static inline int port_process_fd(int pid) {
#if defined(__linux__) && defined(SYS_pidfd_open)
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return port_above_standard(fd >= 0 ? fd : -errno);
#else
    (void)pid;
    return -ENOSYS;
#endif
}
/* SIGKILL this process group when the last writer of the pipe behind fd is
 * gone. The kernel does it, so it works inside C code and needs no thread. */
static inline int port_die_with_pipe(int fd) {
#ifdef __linux__
    if (fcntl(fd, F_SETOWN, -getpgrp()) != 0 || fcntl(fd, F_SETSIG, 9) != 0 ||
        fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK) != 0)
        return -errno;
    return 0;
#else
    (void)fd;
    return -ENOSYS;
#endif
}
/* SIGKILL this process when the thread that forked it ends, so only for children of
 * a process with one thread. Fails if the parent, process pid, has ended already. */
static inline int port_die_with_parent(int pid) {
#ifdef __linux__
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return -errno;
    return getppid() == pid ? 0 : -ESRCH;
#else
    (void)pid;
    return -ENOSYS;
#endif
}
/* The umask without changing it; the interim value only removes permissions. */
static inline int port_read_umask(void) {
    mode_t mask = umask(077);
    umask(mask);
    return (int)mask;
}

/* ---- memory segments: large data that several processes map ---------------------- */

/* Unnamed memory that can grow and never shrink, so that no reader gets SIGBUS. */
static inline int port_segment_fd(const char *label) {
#if defined(__linux__) && defined(SYS_memfd_create)
    /* MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL, the last from Linux 6.3 on */
    int fd = (int)syscall(SYS_memfd_create, label, 1u | 2u | 8u);
    if (fd < 0 && errno == EINVAL)
        fd = (int)syscall(SYS_memfd_create, label, 1u | 2u);
    if (fd < 0)
        return -errno;
    fcntl(fd, 1033 /* F_ADD_SEALS */, 2 /* F_SEAL_SHRINK */);
    return port_above_standard(fd);
#else
    (void)label;
    return -ENOSYS;
#endif
}
/* Give bytes of a file their pages, or fail while there still is an error to return. */
static inline int port_allocate(int fd, int64_t offset, int64_t size) {
#ifdef __linux__
    while (fallocate(fd, 0, offset, size) != 0)
        if (errno != EINTR)
            return -errno;
    return 0;
#else
    (void)fd, (void)offset, (void)size;
    return -EOPNOTSUPP;
#endif
}
/* Free the pages of a file; whoever still maps them reads zeros. */
static inline int port_punch(int fd, int64_t size) {
#ifdef __linux__
    if (fallocate(fd, 3 /* KEEP_SIZE | PUNCH_HOLE */, 0, size) != 0)
        return -errno;
    return 0;
#else
    (void)fd, (void)size;
    return -EOPNOTSUPP;
#endif
}
/* Map all of a file, so that its huge pages can be used as such; NULL on failure. */
static inline void *port_map_shared(int fd, size_t size) {
    uintptr_t huge = 2u << 20, begin, end, wanted;
    void *base;
    if (size >= 2 * huge) {
        base = mmap(NULL, size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base != MAP_FAILED) {
            begin = (uintptr_t)base;
            end = begin + size + huge;
            wanted = (begin + huge - 1) & ~(huge - 1);
            base = mmap((void *)wanted, size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED, fd, 0);
            /* if it failed, what is between the two may be another thread's by now */
            if (wanted > begin)
                munmap((void *)begin, wanted - begin);
            if (end > wanted + size)
                munmap((void *)(wanted + size), end - wanted - size);
            if (base != MAP_FAILED)
                return base;
        }
    }
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}
/* Put what a mapping of shared memory has in a range on huge pages: Linux >= 6.1. */
static inline int port_collapse(char *address, size_t size) {
#ifdef __linux__
    while (madvise(address, size, 25 /* MADV_COLLAPSE */) != 0)
        if (errno != EINTR)
            return -errno;
    return 0;
#else
    (void)address, (void)size;
    return -ENOSYS;
#endif
}
/* Ask for huge pages: a fresh block of memory then costs a fifth of the faults. */
static inline void port_huge_pages(void *address, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t page = 4096, begin = ((uintptr_t)address + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)address + size) & ~(page - 1);
    if (end > begin + (4u << 20))
        madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)address, (void)size;
#endif
}
/* ---- which pages were written to: Linux >= 6.7 --------------------------------------
 *
 * A page of a watched range is write-protected; the first write to it makes the kernel
 * lift the protection, and that is what a scan finds (userfaultfd, WP_ASYNC). The
 * structures are written out here, since headers of older systems lack them. */

typedef struct {
    uint64_t begin, end, categories;
} port_pages;

/* A userfaultfd with optional features. */
static inline int port_userfaultfd(uint64_t features) {
#if defined(__linux__) && defined(SYS_userfaultfd)
    /* UFFD_USER_MODE_ONLY: allowed to everyone, and enough */
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    struct {
        uint64_t api, features, ioctls;
    } api = {0xAA, features, 0};
    if (fd < 0)
        return -errno;
    if (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xAA, 0x3F, sizeof(api)), &api) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return port_above_standard(fd);
#else
    (void)features;
    return -ENOSYS;
#endif
}
/* Bring whole pages of this process under a userfaultfd. */
static inline int port_register_pages(int fd, uint64_t begin, uint64_t size,
                                      uint64_t mode) {
#ifdef __linux__
    struct {
        uint64_t begin, size, mode, ioctls;
    } range = {begin, size, mode, 0};
    if (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xAA, 0x00, sizeof(range)), &range) != 0)
        return -errno;
    return 0;
#else
    (void)fd, (void)begin, (void)size, (void)mode;
    return -ENOSYS;
#endif
}
/* A descriptor to watch pages with. */
static inline int port_watch_fd(void) {
    return port_userfaultfd(1u << 15 /* UFFD_FEATURE_WP_ASYNC */);
}
static inline int port_watch(int fd, uint64_t begin, uint64_t size) {
    return port_register_pages(fd, begin, size, 2 /* UFFDIO_REGISTER_MODE_WP */);
}
/* Undo port_register_pages, and wake whoever waits for one of the pages. */
static inline int port_unwatch(int fd, uint64_t begin, uint64_t size) {
#ifdef __linux__
    struct {
        uint64_t begin, size;
    } range = {begin, size};
    if (ioctl(fd, _IOC(_IOC_READ, 0xAA, 0x01, sizeof(range)), &range) != 0)
        return -errno;
    return 0;
#else
    (void)fd, (void)begin, (void)size;
    return -ENOSYS;
#endif
}
/* Find pages that were written to since the last scan, or are not there, and protect
 * them again. Returns how many runs of pages are in `found`, or -errno; *end is where
 * the scan has stopped because `found` was full. */
static inline int port_scan_written(int pagemap, uint64_t begin, uint64_t *end,
                                    port_pages *found, int n_found) {
#ifdef __linux__
    enum { WPALLOWED = 1, WRITTEN = 2, PRESENT = 8 };
    struct {
        uint64_t size, flags, begin, end, walk_end, found, n_found, max_pages;
        uint64_t inverted, all_of, any_of, returned;
    } scan = {0};
    int n;
    scan.size = sizeof(scan);
    scan.flags = 1 | 2; /* PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC */
    scan.begin = begin;
    scan.end = *end;
    scan.found = (uint64_t)(uintptr_t)found;
    scan.n_found = (uint64_t)n_found;
    scan.inverted = PRESENT | WPALLOWED;
    scan.any_of = WRITTEN | PRESENT | WPALLOWED;
    scan.returned = WRITTEN | PRESENT | WPALLOWED;
    n = ioctl(pagemap, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, sizeof(scan)), &scan);
    if (n < 0)
        return -errno;
    *end = scan.walk_end;
    return n;
#else
    (void)pagemap, (void)begin, (void)end, (void)found, (void)n_found;
    return -ENOSYS;
#endif
}
/* Whether all memory from begin to end is writable and this process's own, without a
 * file: 1 or 0; -errno where the kernel (before Linux 6.11) cannot be asked. maps is a
 * descriptor of /proc/self/maps. */
static inline int port_is_private(int maps, uint64_t begin, uint64_t end) {
#ifdef __linux__
    enum { READABLE = 1, WRITABLE = 2, SHARED = 8 };
    while (begin < end) {
        struct {
            uint64_t size, flags, address, begin, end, access, page_size, offset, inode;
            uint32_t major, minor, name_size, build_id_size;
            uint64_t name, build_id;
        } area = {0};
        area.size = sizeof(area);
        area.address = begin;
        if (ioctl(maps, _IOC(_IOC_READ | _IOC_WRITE, 'f', 17, sizeof(area)), &area) != 0)
            return errno == ENOENT ? 0 : -errno;
        if ((area.access & (READABLE | WRITABLE | SHARED)) != (READABLE | WRITABLE) ||
            area.inode != 0)
            return 0;
        begin = area.end;
    }
    return 1;
#else
    (void)maps, (void)begin, (void)end;
    return -ENOSYS;
#endif
}
/* ---- making pages of shared memory with their content: Linux >= 5.11 ----------------
 *
 * A page fault fills a new page with zeros, and write() holds the lock of the file; a
 * userfaultfd makes pages from a copy, without either. Until port_end_filler, whoever
 * touches a page of the range that is not there waits. */

/* A descriptor to make the missing pages of a range with. */
static inline int port_filler(uint64_t begin, uint64_t size) {
    int fd = port_userfaultfd(0), status;
    if (fd < 0)
        return fd;
    status = port_register_pages(fd, begin, size, 1 /* UFFDIO_REGISTER_MODE_MISSING */);
    if (status != 0) {
        close(fd);
        return status;
    }
    return fd;
}
/* A process that was forked meanwhile may keep the descriptor open for ever. */
static inline void port_end_filler(int fd, uint64_t begin, uint64_t size) {
    port_unwatch(fd, begin, size);
    close(fd);
}
/* Make pages from n bytes at source. *done is how many bytes are there, in any case. */
static inline int port_fill_pages(int fd, char *target, const char *source, size_t n,
                                  size_t *done) {
    *done = 0;
#ifdef __linux__
    while (*done < n) {
        struct {
            uint64_t target, source, size, mode;
            int64_t copied;
        } copy = {(uint64_t)(uintptr_t)target + *done,
                  (uint64_t)(uintptr_t)source + *done, n - *done, 0, 0};
        if (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xAA, 0x03, sizeof(copy)), &copy) == 0)
            copy.copied = (int64_t)copy.size;
        else if (copy.copied <= 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (copy.copied > 0)
            *done += (size_t)copy.copied;
    }
    return 0;
#else
    (void)fd, (void)target, (void)source, (void)n;
    return -ENOSYS;
#endif
}
/* Begin to load a cache line that will be read soon and once. */
static inline void port_prefetch(const void *address) {
    __builtin_prefetch(address, 0, 0);
}
/* Start a thread that never runs Python code or a signal handler. */
static inline int port_thread_start(pthread_t *thread, void *(*run)(void *),
                                    void *argument) {
    sigset_t all, old;
    int status;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    status = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -status;
}

#endif
