/* Takes memory in pieces of 32 MiB until it is refused; the functions are found in the way that the argument names. */
#include "guest.h"

typedef int (*retain_fn)(void **context, int device);
typedef int (*current_fn)(void *context);

#ifdef LINKED /* with -lcuda */
int cuMemAlloc_v2(unsigned long long *address, size_t bytes);
#endif

static void *driver;

static alloc_fn by_name(const char *how, const char *plugin) {
    proc_v2_fn ask = (proc_v2_fn)dlsym(driver, "cuGetProcAddress_v2");
    proc_fn ask_old = (proc_fn)dlsym(driver, "cuGetProcAddress");
    void *found = NULL;
#ifdef LINKED
    if (strcmp(how, "linked") == 0) found = (void *)cuMemAlloc_v2;
#endif
    if (strcmp(how, "dlsym") == 0) found = dlsym(driver, "cuMemAlloc_v2");
    if (strcmp(how, "default") == 0) found = dlsym(RTLD_DEFAULT, "cuMemAlloc_v2");
    if (strcmp(how, "next") == 0) found = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
    if (strcmp(how, "next twice") == 0 && dlsym(RTLD_NEXT, "cuMemAlloc_v2")) found = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
    if (strcmp(how, "proc") == 0) ask("cuMemAlloc", &found, 13000, 0, NULL);
    if (strcmp(how, "proc old") == 0) ask_old("cuMemAlloc", &found, 12000, 2);
    if (strcmp(how, "proc of proc") == 0) {
        void *inner = NULL;
        ask("cuGetProcAddress", &inner, 12000, 0, NULL);
        ((proc_v2_fn)inner)("cuMemAlloc", &found, 13000, 0, NULL);
    }
    if (strcmp(how, "dlsym of libc") == 0) {
        void *(*look)(void *, const char *) = dlsym(dlopen("libc.so.6", RTLD_NOW), "dlsym");
        found = look(driver, "cuMemAlloc_v2");
    }
    if (strcmp(how, "namespace") == 0) found = dlsym(dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2");
    if (strcmp(how, "plugin") == 0) found = dlsym(dlopen(plugin, RTLD_NOW | RTLD_DEEPBIND), "plugin_alloc");
    return (alloc_fn)found;
}

int main(int count, char **arguments) {
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    void *context;
    int status = ((init_fn)dlsym(driver, "cuInit"))(0);
    if (!status) status = ((retain_fn)dlsym(driver, "cuDevicePrimaryCtxRetain"))(&context, 0);
    if (!status) status = ((current_fn)dlsym(driver, "cuCtxSetCurrent"))(context);
    if (status) return printf("no context: %d\n", status), 1;
    alloc_fn alloc = by_name(count > 1 ? arguments[1] : "dlsym", count > 2 ? arguments[2] : NULL);
    if (!alloc) return printf("not found\n"), 1;
    int mib = 0;
    unsigned long long address;
    while (mib < 8192 && (status = alloc(&address, 32 << 20)) == 0) mib += 32;
    printf("granted %d MiB, then status %d\n", mib, status);
    return 0;
}
