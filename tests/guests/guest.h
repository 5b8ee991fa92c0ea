/* What every guest needs: to say in which object an address lies, and the driver's functions that it uses. */
#ifndef GUEST_H
#define GUEST_H

#ifndef _GNU_SOURCE /* C++ has it already */
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*init_fn)(unsigned flags);
typedef int (*alloc_fn)(unsigned long long *address, size_t bytes);
typedef int (*calls_fn)(void);
typedef int (*proc_fn)(const char *name, void **function, int version, uint64_t flags);
typedef int (*proc_v2_fn)(const char *name, void **function, int version, uint64_t flags, int *status);

/* The file name of the object that an address lies in. */
static inline const char *home(const void *address) {
    Dl_info info;
    if (!address) return "null";
    if (!dladdr(address, &info) || !info.dli_fname) return "nowhere";
    const char *slash = strrchr(info.dli_fname, '/');
    return slash ? slash + 1 : info.dli_fname;
}

static inline void show(const char *what, const void *address) {
    printf("%s: %s\n", what, home(address));
    fflush(stdout);
}

/* The driver of the software GPU counts the allocations that reach it. */
static inline int driver_calls(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    calls_fn calls = driver ? (calls_fn)dlsym(driver, "fake_allocations") : NULL;
    return calls ? calls() : -1;
}

#endif
