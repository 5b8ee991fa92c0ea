/* Look-ups from an atexit handler and from a destructor. */
#include "guest.h"

static void *driver;

static void look(const char *who) {
    unsigned long long address;
    alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    show(who, (void *)alloc);
    printf("alloc %d\n", alloc(&address, 1));
    fflush(stdout);
}

static void at_exit(void) { look("atexit"); }
static __attribute__((destructor)) void destructor(void) { look("destructor"); }

int main(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return printf("%s\n", dlerror()), 1;
    atexit(at_exit);
    return 3;
}
