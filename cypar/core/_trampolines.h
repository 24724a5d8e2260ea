/* Calls of C functions whose signature is only known at run time, exactly typed.
 *
 * One small function for each supported signature reads the arguments from a frame
 * of 8-byte slots, calls, and stores the result. Nothing is punned: a float or a
 * 16-bit integer goes through a function type that says so. (Pointers and 64-bit
 * integers share one class; they are passed alike on every 64-bit platform.)
 *
 * The functions and the tables of them are made by the macros below:
 *   wide    0..6 arguments of {w, d},        results {v, w, d, i}
 *   mixed   0..4 arguments of {w, d, i, f},  results {v, w, d, i, f}
 *   narrow  0..3 arguments of {w, d, X},     results {v, w, d, X}, for X in u h H b B
 * Declared for Cython in _trampolines.pxd.
 */
#ifndef CYPAR_TRAMPOLINES_H
#define CYPAR_TRAMPOLINES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The same as Slot in _packing.pxd. */
typedef union {
    int64_t w; /* 64-bit integers and pointers */
    double d;
    float f;
    int32_t i;
    uint32_t u;
    int16_t h;
    uint16_t H;
    int8_t b;
    uint8_t B;
} trampoline_slot;

typedef void (*trampoline)(void *function, const trampoline_slot *args,
                           trampoline_slot *result);

typedef void type_v;
typedef int64_t type_w;
typedef double type_d;
typedef float type_f;
typedef int32_t type_i;
typedef uint32_t type_u;
typedef int16_t type_h;
typedef uint16_t type_H;
typedef int8_t type_b;
typedef uint8_t type_B;

#define STORE_v
#define STORE_w r->w =
#define STORE_d r->d =
#define STORE_f r->f =
#define STORE_i r->i =
#define STORE_u r->u =
#define STORE_h r->h =
#define STORE_H r->H =
#define STORE_b r->b =
#define STORE_B r->B =

/* ---- one trampoline: DEFINEn(set, result, argument classes) and its NAMEn ---------- */

#define HEAD(name)                                                                     \
    static void name(void *fn, const trampoline_slot *s, trampoline_slot *r)
#define UNUSED (void)s, (void)r;

#define NAME0(S, R, unused) t_##S##_##R,
#define NAME1(S, R, a) t_##S##_##R##a,
#define NAME2(S, R, a, b) t_##S##_##R##a##b,
#define NAME3(S, R, a, b, c) t_##S##_##R##a##b##c,
#define NAME4(S, R, a, b, c, d) t_##S##_##R##a##b##c##d,
#define NAME5(S, R, a, b, c, d, e) t_##S##_##R##a##b##c##d##e,
#define NAME6(S, R, a, b, c, d, e, f) t_##S##_##R##a##b##c##d##e##f,

#define DEFINE0(S, R, unused)                                                          \
    HEAD(t_##S##_##R) { UNUSED STORE_##R((type_##R(*)(void))fn)(); }
#define DEFINE1(S, R, a)                                                               \
    HEAD(t_##S##_##R##a) { UNUSED STORE_##R((type_##R(*)(type_##a))fn)(s[0].a); }
#define DEFINE2(S, R, a, b)                                                            \
    HEAD(t_##S##_##R##a##b) {                                                          \
        UNUSED STORE_##R((type_##R(*)(type_##a, type_##b))fn)(s[0].a, s[1].b);         \
    }
#define DEFINE3(S, R, a, b, c)                                                         \
    HEAD(t_##S##_##R##a##b##c) {                                                       \
        UNUSED STORE_##R((type_##R(*)(type_##a, type_##b, type_##c))fn)(               \
            s[0].a, s[1].b, s[2].c);                                                   \
    }
#define DEFINE4(S, R, a, b, c, d)                                                      \
    HEAD(t_##S##_##R##a##b##c##d) {                                                    \
        UNUSED STORE_##R((type_##R(*)(type_##a, type_##b, type_##c, type_##d))fn)(     \
            s[0].a, s[1].b, s[2].c, s[3].d);                                           \
    }
#define DEFINE5(S, R, a, b, c, d, e)                                                   \
    HEAD(t_##S##_##R##a##b##c##d##e) {                                                 \
        UNUSED STORE_##R((type_##R(*)(type_##a, type_##b, type_##c, type_##d,          \
                                      type_##e))fn)(s[0].a, s[1].b, s[2].c, s[3].d,    \
                                                    s[4].e);                           \
    }
#define DEFINE6(S, R, a, b, c, d, e, f)                                                \
    HEAD(t_##S##_##R##a##b##c##d##e##f) {                                              \
        UNUSED STORE_##R((type_##R(*)(type_##a, type_##b, type_##c, type_##d,          \
                                      type_##e, type_##f))fn)(                         \
            s[0].a, s[1].b, s[2].c, s[3].d, s[4].e, s[5].f);                           \
    }

/* ---- all argument lists: the first argument varies slowest -------------------------- */

#define W1(M, S, R, ...) M(S, R, __VA_ARGS__ w) M(S, R, __VA_ARGS__ d)
#define W2(M, S, R, ...) W1(M, S, R, __VA_ARGS__ w,) W1(M, S, R, __VA_ARGS__ d,)
#define W3(M, S, R, ...) W2(M, S, R, __VA_ARGS__ w,) W2(M, S, R, __VA_ARGS__ d,)
#define W4(M, S, R, ...) W3(M, S, R, __VA_ARGS__ w,) W3(M, S, R, __VA_ARGS__ d,)
#define W5(M, S, R, ...) W4(M, S, R, __VA_ARGS__ w,) W4(M, S, R, __VA_ARGS__ d,)
#define W6(M, S, R, ...) W5(M, S, R, __VA_ARGS__ w,) W5(M, S, R, __VA_ARGS__ d,)

#define M1(M, S, R, ...)                                                               \
    M(S, R, __VA_ARGS__ w) M(S, R, __VA_ARGS__ d)                                      \
    M(S, R, __VA_ARGS__ i) M(S, R, __VA_ARGS__ f)
#define M2(M, S, R, ...)                                                               \
    M1(M, S, R, __VA_ARGS__ w,) M1(M, S, R, __VA_ARGS__ d,)                            \
    M1(M, S, R, __VA_ARGS__ i,) M1(M, S, R, __VA_ARGS__ f,)
#define M3(M, S, R, ...)                                                               \
    M2(M, S, R, __VA_ARGS__ w,) M2(M, S, R, __VA_ARGS__ d,)                            \
    M2(M, S, R, __VA_ARGS__ i,) M2(M, S, R, __VA_ARGS__ f,)
#define M4(M, S, R, ...)                                                               \
    M3(M, S, R, __VA_ARGS__ w,) M3(M, S, R, __VA_ARGS__ d,)                            \
    M3(M, S, R, __VA_ARGS__ i,) M3(M, S, R, __VA_ARGS__ f,)

#define N1(M, S, R, X, ...)                                                            \
    M(S, R, __VA_ARGS__ w) M(S, R, __VA_ARGS__ d) M(S, R, __VA_ARGS__ X)
#define N2(M, S, R, X, ...)                                                            \
    N1(M, S, R, X, __VA_ARGS__ w,) N1(M, S, R, X, __VA_ARGS__ d,)                      \
    N1(M, S, R, X, __VA_ARGS__ X,)
#define N3(M, S, R, X, ...)                                                            \
    N2(M, S, R, X, __VA_ARGS__ w,) N2(M, S, R, X, __VA_ARGS__ d,)                      \
    N2(M, S, R, X, __VA_ARGS__ X,)

/* ---- the sets: everything twice, as definitions (D) and as table entries (T) --------- */

#define WIDE(K, R)                                                                     \
    K##0(wide, R, ) W1(K##1, wide, R) W2(K##2, wide, R) W3(K##3, wide, R)              \
    W4(K##4, wide, R) W5(K##5, wide, R) W6(K##6, wide, R)
#define MIXED(K, R)                                                                    \
    K##0(mixed, R, ) M1(K##1, mixed, R) M2(K##2, mixed, R) M3(K##3, mixed, R)          \
    M4(K##4, mixed, R)
#define NARROW(K, R, X)                                                                \
    K##0(X, R, ) N1(K##1, X, R, X) N2(K##2, X, R, X) N3(K##3, X, R, X)

#define WIDE_SET(K) WIDE(K, v) WIDE(K, w) WIDE(K, d) WIDE(K, i)
#define MIXED_SET(K) MIXED(K, v) MIXED(K, w) MIXED(K, d) MIXED(K, i) MIXED(K, f)
#define NARROW_SET(K, X)                                                               \
    NARROW(K, v, X) NARROW(K, w, X) NARROW(K, d, X) NARROW(K, X, X)

WIDE_SET(DEFINE)
MIXED_SET(DEFINE)
NARROW_SET(DEFINE, u)
NARROW_SET(DEFINE, h)
NARROW_SET(DEFINE, H)
NARROW_SET(DEFINE, b)
NARROW_SET(DEFINE, B)

static const trampoline trampolines_wide[] = {WIDE_SET(NAME)};
static const trampoline trampolines_mixed[] = {MIXED_SET(NAME)};
static const trampoline trampolines_u[] = {NARROW_SET(NAME, u)};
static const trampoline trampolines_h[] = {NARROW_SET(NAME, h)};
static const trampoline trampolines_H[] = {NARROW_SET(NAME, H)};
static const trampoline trampolines_b[] = {NARROW_SET(NAME, b)};
static const trampoline trampolines_B[] = {NARROW_SET(NAME, B)};

/* ---- looking one up ------------------------------------------------------------------- */

/* The place of a result and its arguments in a table, or -1 if it is not there. */
static ptrdiff_t trampoline_place(const char *results, const char *classes, int most,
                                  char result, const char *args, int n_args) {
    ptrdiff_t n_classes = (ptrdiff_t)strlen(classes), per_result = 0, first = 0;
    ptrdiff_t lists = 1, at = 0;
    const char *found = strchr(results, result);
    if (found == NULL || n_args > most)
        return -1;
    for (int n = 0; n <= most; n++, lists *= n_classes) {
        if (n < n_args)
            first += lists; /* lists of fewer arguments come first */
        per_result += lists;
    }
    for (int i = 0; i < n_args; i++) {
        const char *digit = strchr(classes, args[i]);
        if (digit == NULL)
            return -1;
        at = at * n_classes + (digit - classes);
    }
    return (found - results) * per_result + first + at;
}

/* The trampoline of a signature, NULL if there is none. */
static void *trampoline_find(char result, const char *args, int n_args) {
    static const struct {
        const char *results, *classes;
        int most;
        const trampoline *table;
    } sets[] = {
        {"vwdi", "wd", 6, trampolines_wide},  {"vwdif", "wdif", 4, trampolines_mixed},
        {"vwdu", "wdu", 3, trampolines_u},    {"vwdh", "wdh", 3, trampolines_h},
        {"vwdH", "wdH", 3, trampolines_H},    {"vwdb", "wdb", 3, trampolines_b},
        {"vwdB", "wdB", 3, trampolines_B},
    };
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        ptrdiff_t at = trampoline_place(sets[i].results, sets[i].classes, sets[i].most,
                                        result, args, n_args);
        if (at >= 0)
            return (void *)sets[i].table[at];
    }
    return NULL;
}

#endif
