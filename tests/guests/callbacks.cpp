// Leaves the driver in the middle of a call: the fake driver calls back from inside an allocation, or from inside the making of
// a context, and the callback does not return. Afterwards the same calls must work.
#include <csetjmp>
#include <pthread.h>
#include <stdexcept>
extern "C" {
#include "guest.h"
}

typedef void (*callback_fn)();
typedef int (*retain_fn)(void **context, int device);

static void *driver;
static alloc_fn alloc;
static retain_fn retain;
static const char *where;
static std::jmp_buf back;

static void call_back(callback_fn callback) {
    ((void (*)(callback_fn))dlsym(driver, "fake_call_back"))(callback);
}

static int enter() {
    unsigned long long address;
    void *context;
    return strcmp(where, "alloc") == 0 ? alloc(&address, 1 << 20) : retain(&context, 0);
}

static void jump() { std::longjmp(back, 1); }
static void raise_exception() { throw std::runtime_error("thrown in the callback"); }
static void leave_thread() { pthread_exit((void *)7); }
static void be_cancelled() {
    pthread_cancel(pthread_self());
    pthread_testcancel();
}

static void *run(void *callback) {
    call_back((callback_fn)callback);
    enter();
    return nullptr;
}

// In a thread of its own: how it ended.
static void in_thread(const char *what, callback_fn callback) {
    pthread_t thread;
    void *result = nullptr;
    pthread_create(&thread, nullptr, run, (void *)callback);
    pthread_join(thread, &result);
    printf("%s: %s\n", what, result == PTHREAD_CANCELED ? "cancelled" : result == (void *)7 ? "left" : "came back");
}

int main(int count, char **arguments) {
    where = count > 1 ? arguments[1] : "alloc";
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return printf("%s\n", dlerror()), 1;
    ((init_fn)dlsym(driver, "cuInit"))(0);
    alloc = (alloc_fn)dlsym(driver, "cuMemAlloc_v2");
    retain = (retain_fn)dlsym(driver, "cuDevicePrimaryCtxRetain");
    for (int turn = 0; turn < 3; turn++) {
        if (setjmp(back) == 0) {
            call_back(jump);
            enter();
            printf("longjmp: came back\n");
        } else {
            printf("longjmp: out\n");
        }
        in_thread("pthread_exit", leave_thread);
        in_thread("cancel", be_cancelled);
        try {
            call_back(raise_exception);
            enter();
            printf("exception: came back\n");
        } catch (const std::exception &) {
            printf("exception: caught\n");
        }
        printf("then: %d\n", enter());
        fflush(stdout);
    }
    return 0;
}
