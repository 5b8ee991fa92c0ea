/* The least driver that look-ups can be tested on: it hands out its own functions as the real one does, and counts the
 * allocations that reach it. Linked with -Bsymbolic, as the real one is. Nothing here models a GPU. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static int allocations;

int fake_allocations(void) { return allocations; }

/* The next call that can calls back, once. */
static void (*callback)(void);
void fake_call_back(void (*function)(void)) { callback = function; }
static void call_back(void) {
    void (*function)(void) = callback;
    callback = NULL;
    if (function) function();
}

int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    call_back();
    *address = 0x700000000ull + ((unsigned long long)__atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST) << 21);
    return bytes ? 0 : 1;
}
int cuMemAlloc(unsigned *address, unsigned bytes) { (void)address; (void)bytes; return 1; }
int cuMemFree_v2(unsigned long long address) { (void)address; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = (size_t)16 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    call_back();
    *context = &allocations;
    return 0;
}
int cuCtxSetCurrent(void *context) { (void)context; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 0;
    return 0;
}
/* What a process needs to become a tenant. */
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { (void)device; memcpy(uuid, "the fake driver.", 16); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)16 << 30; return 0; }
int cuDeviceGetMemPool(void **pool, int device) { (void)device; *pool = &allocations; return 0; }
int cuMemPoolGetAttribute(void *pool, int attribute, uint64_t *value) {
    (void)pool, (void)attribute;
    *value = 0;
    return 0;
}

int cuMemAllocAsync(unsigned long long *address, size_t bytes, void *stream) {
    (void)stream;
    return cuMemAlloc_v2(address, bytes);
}
int cuMemAllocAsync_ptsz(unsigned long long *address, size_t bytes, void *stream) {
    (void)stream;
    return cuMemAlloc_v2(address, bytes);
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags);
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    static const struct { const char *name; int since; int per_thread; void *function; } known[] = {
        {"cuInit", 2000, 0, cuInit},
        {"cuMemAlloc", 3020, 0, cuMemAlloc_v2},
        {"cuMemAlloc", 2000, 0, cuMemAlloc},
        {"cuMemFree", 3020, 0, cuMemFree_v2},
        {"cuMemGetInfo", 3020, 0, cuMemGetInfo_v2},
        {"cuMemAllocAsync", 11020, 1, cuMemAllocAsync_ptsz},
        {"cuMemAllocAsync", 11020, 0, cuMemAllocAsync},
        {"cuGetProcAddress", 12000, 0, cuGetProcAddress_v2},
        {"cuGetProcAddress", 11030, 0, cuGetProcAddress},
    };
    if (!name || !function) return 1; /* CUDA_ERROR_INVALID_VALUE */
    *function = NULL;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int mode_fits = !known[i].per_thread || (flags & 2); /* CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM */
        if (strcmp(name, known[i].name) == 0 && version >= known[i].since && mode_fits) {
            *function = known[i].function;
            break;
        }
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500; /* CUDA_ERROR_NOT_FOUND */
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
