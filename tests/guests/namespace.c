/* Opens the driver in a namespace of its own. */
#include "guest.h"

int main(void) {
    void *base = dlopen("libcuda.so.1", RTLD_NOW);
    void *driver = dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW);
    if (!driver) return printf("%s\n", dlerror()), 1;
    Lmid_t namespace = -1;
    dlinfo(driver, RTLD_DI_LMID, &namespace);
    printf("namespace %ld, the same driver %d\n", (long)namespace, base == driver);
    show("hooked", dlsym(driver, "cuMemAlloc_v2"));
    void *other = dlmopen(LM_ID_NEWLM, "libm.so.6", RTLD_NOW);
    if (!other) return printf("%s\n", dlerror()), 1;
    dlinfo(other, RTLD_DI_LMID, &namespace);
    printf("libm has its own namespace %d\n", namespace != LM_ID_BASE);
    return 0;
}
