/* No libcuda in the process. */
#include "guest.h"

#pragma weak cuInit
#pragma weak cuMemAlloc_v2
#pragma weak nvmlDeviceGetMemoryInfo
int cuInit(unsigned flags);
int cuMemAlloc_v2(unsigned long long *address, size_t bytes);
int nvmlDeviceGetMemoryInfo(void *device, void *memory);

static void absent(void *handle, const char *name) {
    dlerror();
    void *found = dlsym(handle, name);
    const char *error = dlerror();
    printf("%s: %s, %s\n", name, home(found), error && strstr(error, name) ? "dlerror names it" : "no dlerror");
}

int main(void) {
    void *program = dlopen(NULL, RTLD_NOW);
    printf("weak cuInit: %s\n", cuInit ? "there" : "null");
    absent(RTLD_DEFAULT, "cuInit");
    absent(RTLD_DEFAULT, "cuMemAlloc_v2");
    absent(RTLD_NEXT, "cuMemAlloc_v2");
    absent(program, "cuMemAlloc_v2");
    absent(program, "cuGetProcAddress_v2");
    absent(RTLD_DEFAULT, "nvmlDeviceGetMemoryInfo");
    /* Only an export of ours can stand behind these weak references. */
    unsigned long long address;
    if (cuMemAlloc_v2) printf("alloc %d\n", cuMemAlloc_v2(&address, 1));
    if (nvmlDeviceGetMemoryInfo) printf("nvml %d\n", nvmlDeviceGetMemoryInfo(NULL, &address));
    dlsym(RTLD_DEFAULT, "cuMemAlloc_v2");
    show("after a failure", dlsym(RTLD_DEFAULT, "dlsym"));
    printf("error pending: %s\n", dlerror() ? "yes" : "no");
    return 0;
}
