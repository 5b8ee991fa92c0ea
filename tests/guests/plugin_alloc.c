/* A plugin that is linked with the driver. */
#include <stddef.h>

int cuMemAlloc_v2(unsigned long long *address, size_t bytes);

int plugin_alloc(unsigned long long *address, size_t bytes) { return cuMemAlloc_v2(address, bytes); }
