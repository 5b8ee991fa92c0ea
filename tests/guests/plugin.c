/* A plugin that is linked with the driver and also looks names up. */
#include "guest.h"

int cuMemAlloc_v2(unsigned long long *address, size_t bytes);

void plugin(void) {
    show("plugin bound", (void *)cuMemAlloc_v2);
    show("plugin dlsym", (void *)dlsym);
    show("plugin default", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
    show("plugin looked up", dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2"));
}
