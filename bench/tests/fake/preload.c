/*
 * Preloaded libraries for the tests, one a macro: cc -DSYMBOL=fake_quota; without it, one that does nothing. HOOK makes
 * one that hooks: dlsym hands out an allocation that takes 20 us more than the driver's own.
 */
#define _GNU_SOURCE
#ifdef SYMBOL
int SYMBOL;
#endif
#ifdef SYMBOL2
int SYMBOL2;
#endif
int loaded_for_tests;

#ifdef HOOK
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

static int (*real_alloc)(uint64_t *, size_t);

static int slow_alloc(uint64_t *out, size_t bytes) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t end_ns = t.tv_sec * 1000000000ll + t.tv_nsec + 20000;
    do clock_gettime(CLOCK_MONOTONIC, &t);
    while (t.tv_sec * 1000000000ll + t.tv_nsec < end_ns);
    return real_alloc(out, bytes);
}

void *dlsym(void *handle, const char *name) {
    static void *(*real)(void *, const char *);
    /* The version that dlsym was born with: x86-64, then aarch64. */
    if (!real) *(void **)&real = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    if (!real) *(void **)&real = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.17");
    void *found = real(handle, name);
    if (strcmp(name, "cuMemAlloc_v2") || !found) return found;
    *(void **)&real_alloc = found;
    return (void *)slow_alloc;
}
#endif
