/* cuGetProcAddress in both versions and both stream modes. */
#include "guest.h"

static void ask(proc_fn old, proc_v2_fn new, const char *name, int version, uint64_t flags) {
    void *function = (void *)0x1;
    int status = old(name, &function, version, flags);
    printf("%s %d mode %d: %d %s", name, version, (int)flags, status, status ? "none" : home(function));
    int found = -1;
    function = (void *)0x1;
    status = new(name, &function, version, flags, &found);
    printf(" / %d %s %d\n", status, status ? "none" : home(function), found);
}

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return printf("%s\n", dlerror()), 1;
    proc_fn old = (proc_fn)dlsym(driver, "cuGetProcAddress");
    proc_v2_fn new = (proc_v2_fn)dlsym(driver, "cuGetProcAddress_v2");
    show("v1", (void *)old);
    show("v2", (void *)new);
    for (uint64_t mode = 0; mode <= 2; mode++) {
        ask(old, new, "cuMemAlloc", 12000, mode);
        ask(old, new, "cuMemAllocAsync", 12000, mode);
    }
    ask(old, new, "cuMemAlloc", 2000, 0);
    ask(old, new, "cuInit", 12000, 0);
    ask(old, new, "cuGetProcAddress", 12000, 0);
    ask(old, new, "cuGetProcAddress", 11030, 0);
    ask(old, new, "cuNoSuchFunction", 12000, 0);

    void *legacy, *per_thread;
    old("cuMemAllocAsync", &legacy, 12000, 1);
    old("cuMemAllocAsync", &per_thread, 12000, 2);
    printf("twins differ: %d\n", legacy != per_thread);
    printf("null: %d %d\n", old("cuMemAlloc", NULL, 12000, 0), new("cuMemAlloc", NULL, 12000, 0, NULL));
    void *function;
    printf("no status wanted: %d\n", new("cuMemAlloc", &function, 12000, 0, NULL));
    return 0;
}
