/*
 * The least driver that cuota-bench can be run against: it counts bytes and computes nothing. Tests of the benchmark's
 * own machinery use it; the software GPU (crates/sim) is what models a device.
 *
 * A preloaded library that defines `fake_quota` makes it hold the process to CUDA_DEVICE_MEMORY_LIMIT, as a limiting
 * library would; further symbols inject faults. What a process holds is written to $FAKE_GPU_DIR/<pid> for nvml.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
#define DEVICE_BYTES (16ULL << 30)
#define CONTEXT_BYTES (500ULL << 20)
#define SLOTS 16384
#define FIRST_ADDRESS (1ULL << 40)

typedef uint64_t ptr;

static uint64_t limit_bytes = DEVICE_BYTES, used_bytes;
static int slow_alloc, next_free_slot, used_slots;
static uint64_t sizes[SLOTS];
static int free_slots[SLOTS];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void publish(void) {
    char path[512];
    const char *dir = getenv("FAKE_GPU_DIR");
    if (!dir) return;
    snprintf(path, sizeof path, "%s/%d", dir, (int)getpid());
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%llu", (unsigned long long)used_bytes);
    fclose(file);
}

static int take(uint64_t bytes, uint64_t *out) {
    if (slow_alloc) {
        uint64_t end = now_ns() + 20000;
        while (now_ns() < end) {}
    }
    if (used_bytes + bytes > limit_bytes) return OUT_OF_MEMORY;
    int slot = next_free_slot ? free_slots[--next_free_slot] : used_slots++;
    if (slot >= SLOTS) return OUT_OF_MEMORY;
    sizes[slot] = bytes;
    used_bytes += bytes;
    if (bytes >= 64u << 20) publish();
    *out = FIRST_ADDRESS + ((uint64_t)slot << 16); /* 32 a block of 2 MiB, whatever their size */
    return SUCCESS;
}

static int give(uint64_t address) {
    uint64_t slot = (address - FIRST_ADDRESS) >> 16;
    if (slot >= SLOTS || !sizes[slot]) return INVALID_VALUE;
    used_bytes -= sizes[slot];
    sizes[slot] = 0;
    free_slots[next_free_slot++] = (int)slot;
    return SUCCESS;
}

int cuInit(unsigned flags) {
    (void)flags;
    if (dlsym(RTLD_DEFAULT, "fake_hang")) for (;;) pause();
    if (dlsym(RTLD_DEFAULT, "fake_crash")) abort();
    slow_alloc = dlsym(RTLD_DEFAULT, "fake_slow_alloc") != NULL;
    const char *limit = getenv("CUDA_DEVICE_MEMORY_LIMIT");
    if (limit && dlsym(RTLD_DEFAULT, "fake_quota")) limit_bytes = strtoull(limit, NULL, 10) << 20;
    return SUCCESS;
}

static int context(void) {
    if (!used_bytes) used_bytes = CONTEXT_BYTES;
    publish();
    return SUCCESS;
}

int cuDriverGetVersion(int *v) { *v = 13000; return SUCCESS; }
int cuDeviceGetCount(int *n) { *n = 1; return SUCCESS; }
int cuDeviceGet(int *d, int n) { *d = n; return SUCCESS; }
int cuDeviceGetAttribute(int *v, int a, int d) { (void)a; (void)d; *v = 8; return SUCCESS; }
int cuDeviceGetName(char *s, int n, int d) { (void)d; snprintf(s, (size_t)n, "fake"); return SUCCESS; }
int cuDeviceGetUuid_v2(unsigned char *u, int d) { (void)d; memset(u, 0x11, 16); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t *b, int d) { (void)d; *b = DEVICE_BYTES; return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; *c = &used_bytes; return context(); }
int cuCtxCreate_v2(void **c, unsigned f, int d) { (void)f; (void)d; *c = &used_bytes; return context(); }
int cuCtxDestroy_v2(void *c) { (void)c; return SUCCESS; }
int cuCtxSetCurrent(void *c) { (void)c; return SUCCESS; }
int cuCtxSynchronize(void) { return SUCCESS; }
int cuCtxGetDevice(int *d) { *d = 0; return SUCCESS; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *t = limit_bytes; *f = limit_bytes - used_bytes; return SUCCESS; }
int cuMemAlloc_v2(ptr *p, size_t n) {
    if (dlsym(RTLD_DEFAULT, "fake_alloc_error")) return 999;
    return take(n, p);
}
int cuMemFree_v2(ptr p) { return give(p); }
int cuMemAllocAsync(ptr *p, size_t n, void *s) { (void)s; return take(n, p); }
int cuMemPoolCreate(void **p, const void *q) { (void)q; *p = &used_bytes; return SUCCESS; }
int cuMemAllocFromPoolAsync(ptr *p, size_t n, void *q, void *s) { (void)q; (void)s; return take(n, p); }
int cuArrayCreate_v2(ptr *a, const size_t *shape) { return take(shape[0] * shape[1] * 16, a); }
int cuGraphCreate(void **g, unsigned f) { (void)f; *g = calloc(1, 8); return SUCCESS; }
int cuGraphAddMemAllocNode(void **n, uint64_t *g, const void *d, size_t c, const char *node) {
    (void)d; (void)c;
    memcpy(g, node + 104, 8); /* its size in bytes */
    *n = g;
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { (void)f; *e = g; return SUCCESS; }
int cuGraphLaunch(uint64_t *e, void *s) {
    (void)s;
    ptr address;
    return take(*e, &address);
}
int cuMemFreeAsync(ptr p, void *s) { (void)s; return give(p); }
int cuStreamCreate(void **s, unsigned f) { (void)f; *s = &used_bytes; return SUCCESS; }
int cuStreamSynchronize(void *s) { (void)s; return SUCCESS; }
int cuDeviceGetDefaultMemPool(void **p, int d) { (void)d; *p = &used_bytes; return SUCCESS; }
int cuMemPoolTrimTo(void *p, size_t n) { (void)p; (void)n; return SUCCESS; }
int cuMemAddressReserve(ptr *p, size_t n, size_t a, ptr h, unsigned long long f) {
    (void)n; (void)a; (void)h; (void)f;
    *p = 1ULL << 46;
    return SUCCESS;
}
int cuMemCreate(unsigned long long *h, size_t n, const void *prop, unsigned long long f) {
    (void)prop; (void)f;
    return take(n, (uint64_t *)h);
}
int cuMemMap(ptr p, size_t n, size_t o, unsigned long long h, unsigned long long f) {
    (void)p; (void)n; (void)o; (void)h; (void)f;
    return SUCCESS;
}
int cuMemUnmap(ptr p, size_t n) { (void)p; (void)n; return SUCCESS; }
int cuMemRelease(unsigned long long h) { return give(h); }
int cuMemsetD8_v2(ptr p, unsigned char c, size_t n) { (void)p; (void)c; (void)n; return SUCCESS; }
int cuMemcpyDtoH_v2(void *d, ptr p, size_t n) { (void)p; memset(d, 0, n); return SUCCESS; }
int cuModuleLoadData(void **m, const void *i) { (void)i; *m = &used_bytes; return SUCCESS; }
int cuModuleGetFunction(void **f, void *m, const char *n) { (void)m; (void)n; *f = &used_bytes; return SUCCESS; }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned s,
                   void *stream, void **p, void **x) {
    (void)f; (void)a; (void)b; (void)c; (void)d; (void)e; (void)g; (void)s; (void)stream; (void)p; (void)x;
    return SUCCESS;
}
int cuGetProcAddress_v2(const char *n, void **p, int v, uint64_t f, int *s) {
    (void)v; (void)f; (void)s;
    static const char *names[] = {"cuMemAlloc", "cuCtxGetDevice"};
    static void *const addresses[] = {(void *)cuMemAlloc_v2, (void *)cuCtxGetDevice};
    for (int i = 0; i < 2; i++) {
        if (!strcmp(n, names[i])) {
            *p = addresses[i];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}
