/* dlsym, for the first time, inside a signal handler. */
#include "guest.h"

static void *driver;
static void *volatile found, *volatile next;

static void handler(int signal) {
    (void)signal;
    found = dlsym(driver, "cuMemAlloc_v2");
    next = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
}

int main(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    show("in the driver", found);
    show("next", next);
    return 0;
}
