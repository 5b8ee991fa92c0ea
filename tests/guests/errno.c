/* A look-up that succeeds leaves errno alone. */
#include "guest.h"

#define KEEPS(what) (errno = 4242, (void)(what), errno == 4242 ? "kept" : "changed")

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return printf("%s\n", dlerror()), 1;
    printf("first look-up: %s\n", KEEPS(dlsym(driver, "cuMemAlloc_v2")));
    printf("driver: %s\n", KEEPS(dlsym(driver, "cuMemAlloc_v2")));
    printf("default: %s\n", KEEPS(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2")));
    printf("next: %s\n", KEEPS(dlsym(RTLD_NEXT, "dlsym")));
    printf("libc: %s\n", KEEPS(dlsym(RTLD_DEFAULT, "malloc")));
    unsigned long long address;
    alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    printf("alloc: %s\n", KEEPS(alloc(&address, 1)));
    return 0;
}
