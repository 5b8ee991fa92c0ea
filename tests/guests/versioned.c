/* dlvsym, on a driver whose symbols have the version libcuda.so.1. */
#include "guest.h"

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return printf("%s\n", dlerror()), 1;
    show("its version", dlvsym(driver, "cuMemAlloc_v2", "libcuda.so.1"));
    show("another version", dlvsym(driver, "cuMemAlloc_v2", "other"));
    show("not hooked", dlvsym(driver, "cuInit", "libcuda.so.1"));
    show("next, its version", dlvsym(RTLD_NEXT, "cuMemAlloc_v2", "libcuda.so.1"));
    show("next, another version", dlvsym(RTLD_NEXT, "cuMemAlloc_v2", "other"));
    return 0;
}
