/* Eight threads look up at once, from the first look-up of the process on. */
#include "guest.h"
#include <pthread.h>

enum { THREADS = 8, TURNS = 2000 };

static void *driver;
static pthread_barrier_t start;
static int wrong;

static void *look(void *unused) {
    pthread_barrier_wait(&start);
    for (int i = 0; i < TURNS; i++) {
        void *found = dlsym(driver, "cuMemAlloc_v2");
        void *next = dlsym(RTLD_NEXT, "cuMemAlloc_v2");
        void *own = dlsym(RTLD_DEFAULT, "dlsym");
        unsigned long long address;
        if (!found || found != next || own != (void *)dlsym || !dlsym(RTLD_NEXT, "malloc") ||
            ((alloc_fn)found)(&address, 1) != 0)
            __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
    }
    return unused;
}

int main(void) {
    pthread_t threads[THREADS];
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, look, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("wrong %d, reached the driver %d\n", wrong, driver_calls());
    show("hooked", dlsym(driver, "cuMemAlloc_v2"));
    return 0;
}
