/* RTLD_NEXT from the program, twice for each name. */
#include "guest.h"

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    for (int turn = 1; turn <= 2; turn++) {
        printf("turn %d\n", turn);
        show("hooked", dlsym(RTLD_NEXT, "cuMemAlloc_v2"));
        show("not hooked", dlsym(RTLD_NEXT, "cuInit"));
        show("libc", dlsym(RTLD_NEXT, "malloc"));
        show("dlsym", dlsym(RTLD_NEXT, "dlsym"));
        show("dlopen", dlsym(RTLD_NEXT, "dlopen"));
    }
    void *libc = dlopen("libc.so.6", RTLD_NOW);
    show("dlsym of libc", dlsym(libc, "dlsym"));
    show("dlvsym of libc", dlsym(libc, "dlvsym"));
    show("dlclose of libc", dlsym(libc, "dlclose"));
    show("dlsym of a version that glibc lacks", dlvsym(libc, "dlsym", "GLIBC_1.0"));
    return 0;
}
