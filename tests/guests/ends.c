/* Calls the driver where a program hardly exists: before cuInit, in threads that end anyhow, from exit handlers and destructors, and
 * from threads that go on while the program ends. */
#include "guest.h"
#include <pthread.h>
#include <stdatomic.h>

typedef int (*retain_fn)(void **context, int device);
typedef int (*current_fn)(void *context);
typedef int (*free_fn)(unsigned long long address);
typedef int (*memory_fn)(size_t *free, size_t *total);

static void *driver, *context;
static alloc_fn alloc;
static free_fn release;
static current_fn make_current;

static int once(void) {
    unsigned long long address;
    int status = alloc(&address, 1 << 20);
    return status ? status : release(address);
}

static void *work(void *forever) {
    make_current(context);
    for (int i = 0; forever || i < 50; i++) {
        once();
        if (forever) pthread_testcancel();
    }
    return NULL;
}

static void *work_and_exit(void *unused) {
    unsigned long long address;
    (void)unused;
    make_current(context);
    alloc(&address, 1 << 16);
    pthread_exit(NULL);
}

static void at_exit(void) {
    printf("exit handler: %d\n", once());
    fflush(stdout);
}

static __attribute__((destructor)) void destructor(void) {
    /* NVIDIA's driver may have ended by itself; what counts is that the call returns. */
    if (alloc) once();
    printf("destructor\n");
    fflush(stdout);
}

int main(void) {
    pthread_t threads[32];
    unsigned long long address;
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    release = (free_fn)dlsym(driver, "cuMemFree_v2");
    make_current = (current_fn)dlsym(driver, "cuCtxSetCurrent");
    size_t free_bytes, total;
    printf("before cuInit: %d %d\n", alloc(&address, 1), ((memory_fn)dlsym(driver, "cuMemGetInfo_v2"))(&free_bytes, &total));
    printf("cuInit: %d\n", ((init_fn)dlsym(driver, "cuInit"))(0));
    printf("no context: %d\n", alloc(&address, 1));
    printf("context: %d\n", ((retain_fn)dlsym(driver, "cuDevicePrimaryCtxRetain"))(&context, 0));
    printf("current: %d\n", make_current(context));
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < 32; i++) pthread_create(&threads[i], NULL, work_and_exit, NULL);
        for (int i = 0; i < 32; i++) pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, work, &driver);
    for (int i = 0; i < 4; i++) pthread_cancel(threads[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    printf("after threads that were cancelled: %d\n", once());
    atexit(at_exit);
    return 3; /* four threads still allocate */
}
