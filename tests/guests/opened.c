/* dlopen and dlsym: what cudarc, ctypes and the CUDA runtime do. */
#include "guest.h"

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!driver || !nvml) return printf("%s\n", dlerror()), 1;
    alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    unsigned long long address;
    show("hooked", (void *)alloc);
    show("not hooked", dlsym(driver, "cuInit"));
    show("nvml hooked", dlsym(nvml, "nvmlDeviceGetMemoryInfo"));
    show("nvml not hooked", dlsym(nvml, "nvmlInit_v2"));
    show("default", dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
    show("program", dlsym(dlopen(NULL, RTLD_NOW), "cuMemAlloc_v2"));
    show("unknown to this driver", dlsym(RTLD_DEFAULT, "cuCtxCreate_v4"));
    show("unknown to the program's driver", dlsym(dlopen(NULL, RTLD_NOW), "cuCtxCreate_v4"));
    printf("alloc %d\n", alloc(&address, 1));
    printf("reached the driver %d\n", driver_calls());
    return 0;
}
