/* libnvidia-ml to fake_driver.c. */
#include <stddef.h>

typedef struct { unsigned long long total, free, used; } memory_t;

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    (void)device;
    memory->total = memory->free = 16ull << 30;
    memory->used = 0;
    return 0;
}
