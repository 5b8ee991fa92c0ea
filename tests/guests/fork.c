/* fork before and after cuInit; parent and child look up and call. */
#include "guest.h"

static void look(const char *who, void *driver) {
    unsigned long long address;
    alloc_fn alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    printf("%s: %s %s\n", who, home((void *)alloc), home(dlsym(RTLD_NEXT, "cuMemAlloc_v2")));
    alloc(&address, 1);
    fflush(stdout);
}

static int child_of(const char *who, void *driver) {
    pid_t pid = fork();
    if (pid == 0) {
        look(who, driver);
        _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    printf("status %d\n", child_of("child before", driver));
    fflush(stdout);
    ((init_fn)dlsym(driver, "cuInit"))(0);
    look("parent", driver);
    printf("status %d\n", child_of("child after", driver));
    look("parent again", driver);
    return 0;
}
