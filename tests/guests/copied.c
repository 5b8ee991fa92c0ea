/* A second copy of the driver, opened by its path. */
#include "guest.h"

int main(int count, char **arguments) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    void *copy = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!driver || !copy) return printf("%s\n", dlerror()), 1;
    printf("two copies %d\n", driver != copy);
    show("hooked", dlsym(copy, "cuMemAlloc_v2"));
    show("not hooked", dlsym(copy, "cuInit"));
    return 0;
}
