/* Looks whether there is a driver, closes it, and comes back later; meanwhile something else takes the driver's place
 * in the address space, if it is free. */
#include "guest.h"
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

int main(void) {
    for (int turn = 1; turn <= 3; turn++) {
        unsigned long long address;
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        if (!driver) return printf("%s\n", dlerror()), 1;
        alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
        uintptr_t place = (uintptr_t)dlsym(driver, "cuInit") & ~(uintptr_t)4095;
        printf("turn %d: %s, alloc %d\n", turn, home((void *)alloc), alloc(&address, 1));
        fflush(stdout);
        dlclose(driver);
        mmap((void *)place, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    }
    return 0;
}
