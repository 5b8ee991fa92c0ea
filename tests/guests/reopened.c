/* Looks whether there is a driver, closes it, and comes back later. */
#include "guest.h"

int main(void) {
    for (int turn = 1; turn <= 3; turn++) {
        unsigned long long address;
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        if (!driver) return printf("%s\n", dlerror()), 1;
        alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
        printf("turn %d: %s, alloc %d\n", turn, home((void *)alloc), alloc(&address, 1));
        dlclose(driver);
    }
    return 0;
}
