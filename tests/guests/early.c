/* A library whose constructor runs before ours: it looks up and opens as a constructor may. */
#include "guest.h"

static __attribute__((constructor)) void early(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) {
        printf("%s\n", dlerror());
        return;
    }
    unsigned long long address;
    alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    show("constructor", (void *)alloc);
    show("constructor, next", dlsym(RTLD_NEXT, "dlsym"));
    printf("alloc %d\n", alloc(&address, 1));
}
