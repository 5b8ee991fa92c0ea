// The least libcuda.so.1 that `cuota probe` can talk to. It knows no quota: it grants whatever it is asked for.
#include <stddef.h>
#include <string.h>

#define SIXTEEN_GIB (16ull << 30)

static unsigned long long next = 1ull << 40;

int cuInit(unsigned flags) { return flags != 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    return strncpy(name, "lax", (size_t)length), 0;
}
int cuDeviceGetUuid_v2(void *uuid, int device) { return memset(uuid, device + 1, 16), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = SIXTEEN_GIB + (size_t)device, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)(size_t)(device + 1), 0; }
int cuCtxSetCurrent(void *context) { return context == NULL; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = SIXTEEN_GIB, 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    *address = next;
    next += bytes;
    return 0;
}
int cuMemFree_v2(unsigned long long address) { return address == 0; }
