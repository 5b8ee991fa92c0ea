// The demo's tenant: a plain CUDA program. Asks the driver how large the GPU is, then takes memory in pieces until it has
// what it wants or is refused. It knows nothing of cuota.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_MIB 256
typedef unsigned long long pointer_t;

// The driver's function of this name and type.
#define FUNCTION(type, name) __typeof__(type) *name = (__typeof__(type) *)dlsym(driver, #name)

static void *driver;

static int call_init(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver)
        return 100;
    FUNCTION(int(unsigned), cuInit);
    return cuInit ? cuInit(0) : 100;
}

int main(int count, char **arguments) {
    int there = call_init();
    if (count > 1 && strcmp(arguments[1], "--is-there") == 0)
        return there != 0;
    if (there != 0 || count < 3)
        return fprintf(stderr, "no CUDA driver (status %d)\n", there), 1;
    FUNCTION(int(void **, int), cuDevicePrimaryCtxRetain);
    FUNCTION(int(void *), cuCtxSetCurrent);
    FUNCTION(int(size_t *, size_t *), cuMemGetInfo_v2);
    FUNCTION(int(pointer_t *, size_t), cuMemAlloc_v2);
    FUNCTION(int(int, const char **), cuGetErrorName);

    const char *name = arguments[1];
    long wanted_mib = atol(arguments[2]), got_mib = 0;
    void *context;
    int status = cuDevicePrimaryCtxRetain(&context, 0);
    if (status == 0)
        status = cuCtxSetCurrent(context);
    size_t free = 0, total = 0;
    if (status == 0)
        status = cuMemGetInfo_v2(&free, &total);
    while (status == 0 && got_mib < wanted_mib) {
        pointer_t memory;
        status = cuMemAlloc_v2(&memory, (size_t)PIECE_MIB << 20);
        if (status == 0)
            got_mib += PIECE_MIB;
    }
    const char *why = "nothing";
    if (status != 0)
        cuGetErrorName(status, &why);
    if (total == 0)
        printf("   %-10s got no context, refused: %s\n", name, why);
    else
        printf("   %-10s sees a GPU of %6zu MiB, asked for %5ld MiB, got %5ld MiB, refused: %s\n", name, total >> 20,
               wanted_mib, got_mib, why);
    fflush(stdout);

    const char *hold = getenv("DEMO_HOLD");
    if (hold) { // Says that it is done, and keeps its memory until it is told to end.
        char done[512], byte;
        snprintf(done, sizeof done, "%s.%s.done", hold, name);
        close(open(done, O_CREAT | O_WRONLY, 0600));
        int pipe = open(hold, O_RDONLY);
        if (read(pipe, &byte, 1) != 1)
            return 1;
    }
    return 0;
}
